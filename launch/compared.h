#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace upcycle {

// A tensor that `diff` compares.
struct ComparedTensor {
  std::string name;
  std::string kind;  // tensors of one kind share the norm in the tolerance: "parameter_gradient" ...
  std::string type;  // "F32", "BF16", "I32" ...
  std::vector<std::int64_t> shape;
  std::function<std::vector<float>()> read;  // all of it, row-major; bf16 and token ids are exact
  bool integer() const { return type == "I32"; }
};

// Opens a dump (debug.dump; tensors in the order of the step), a checkpoint or Hugging Face directory (in the order of
// the model) or a safetensors file (in the order of the file). Throws InputError if `path` is none of these; `read`
// throws it if a tensor's type is neither floating-point nor I32.
std::vector<ComparedTensor> open_compared(const std::string& path);

}  // namespace upcycle
