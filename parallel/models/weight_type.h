#pragma once
#include <string>

#include "data/safetensors.h"

// The types that a model's weights can go out in. They come in as any type that safetensors.h converts.
namespace upcycle {

struct WeightType {
  StoredType stored = StoredType::F32;
  const char* name = "";         // "bf16"
  const char* config_name = "";  // "bfloat16", in config.json
};

const WeightType* find_weight_type(const std::string& name);  // by either name; null: not one of these
const WeightType& weight_type(StoredType stored);             // InputError for another type
std::string weight_type_names();                              // "fp32, bf16 or fp16", for messages

}  // namespace upcycle
