#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace upcycle {

// A tensor as `diff` compares it.
struct ComparedTensor {
  std::string name;
  std::string kind;  // its norm is taken among all of this kind: "parameter_gradient" ...
  std::string type;  // "F32", "BF16", "I32" ...
  std::vector<std::int64_t> shape;
  std::function<std::vector<float>()> read;  // all of it, row-major; bf16 and token ids are exact
  bool integer() const { return type == "I32"; }
};

// Of a dump (debug.dump) in the order of the step; of a checkpoint or a Hugging Face directory in the order of the
// model; of a safetensors file in that of the file. Throws InputError where `path` is none of these; `read` does where
// a tensor's type is no floating-point one or I32.
std::vector<ComparedTensor> open_compared(const std::string& path);

}  // namespace upcycle
