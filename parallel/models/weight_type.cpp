#include "parallel/models/weight_type.h"

#include <array>

#include "core/error.h"

namespace upcycle {
namespace {

constexpr std::array<WeightType, 3> types{{{StoredType::F32, "fp32", "float32"},
                                           {StoredType::BF16, "bf16", "bfloat16"},
                                           {StoredType::F16, "fp16", "float16"}}};

}  // namespace

const WeightType* find_weight_type(const std::string& name) {
  for (const WeightType& t : types)
    if (name == t.name || name == t.config_name) return &t;
  return nullptr;
}

const WeightType& weight_type(StoredType stored) {
  for (const WeightType& t : types)
    if (t.stored == stored) return t;
  input_error("export: dtype: found {}, expected {}", name_of(stored), weight_type_names());
}

std::string weight_type_names() { return "fp32, bf16 or fp16"; }

}  // namespace upcycle
