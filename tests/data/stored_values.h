#pragma once
#include <string>
#include <vector>

#include "data/files.h"
#include "data/safetensors.h"

namespace upcycle {

// A tensor's bytes as stored in the file.
template <class T>
std::vector<T> stored_values(const std::string& path, const StoredTensor& tensor) {
  std::vector<T> values(tensor.bytes() / sizeof(T));
  open_regular_file(path).read_at(tensor.begin, values.data(), tensor.bytes());
  return values;
}

}  // namespace upcycle
