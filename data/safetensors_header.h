#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "data/safetensors.h"

namespace upcycle {

inline constexpr std::uint64_t max_safetensors_header = 100'000'000;  // bytes, the reference implementation's limit

struct SafetensorsHeader {
  std::map<std::string, StoredTensor> tensors;  // byte ranges count from the start of the data
};

// Checks a header's text against the data_bytes that follow it: one JSON object, no duplicate keys, known types, shape
// x type = byte range, ranges from 0 to data_bytes without overlaps or gaps. InputError names `path`.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& path);

}  // namespace upcycle
