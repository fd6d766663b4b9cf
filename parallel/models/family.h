#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/model/param_role.h"
#include "parallel/models/config_object.h"

namespace upcycle {

// Ends the export by an InputError: the family can not express model.FIELD.
using Refuse = std::function<void(const char* field, const std::string& found, const std::string& expected)>;

// Parameters that a family stores as one tensor, below each other in the order of `roles`. Those of experts are such
// stacks of all experts, in a tensor (experts, rows, columns).
struct Stack {
  const char* pattern;  // as canonical_pattern has them
  std::vector<ParamRole> roles;
};

// A tensor that a family's files have where the model has no such parameter: all of one value, which changes nothing.
struct ConstantTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  float value = 0;
};

// A family of models in Hugging Face's form: its name, config keys and tensor names, and what it can not express.
// families/FAMILY.cpp defines one as `families::FAMILY`; only the default of export names any.
struct Family {
  const char* name;                        // in messages
  const char* model_type;                  // in config.json
  const char* architecture;                // in config.json
  double rope_theta;                       // what an absent key means in transformers
  std::vector<const char*> required = {};  // keys that must be there, besides those of all families (hf_config.cpp)
  // Reads the family's own keys; the common ones are already read.
  void (*read)(const ConfigObject& file, ModelConfig& model);
  // Keys of model that the family has words for, besides those of all families (hf_config.cpp). Where another one is
  // not at its default, the family can not express the model.
  std::vector<const char*> expresses = {};
  // Refuses what the family can not express of these; adds its own keys to the common ones, or replaces them.
  void (*write)(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file);
  const char* (*pattern)(ParamRole role) = canonical_pattern;  // names of tensors, as canonical_pattern has them
  std::vector<Stack> stacks = {};                              // the roles that are not tensors of their own
  // What is written beside the model's parameters, and left unread.
  std::vector<ConstantTensor> (*constants)(const ModelConfig& model) = [](const ModelConfig&) {
    return std::vector<ConstantTensor>();
  };
  // On what is written of a parameter, to make up for such a constant.
  float (*factor)(const ModelConfig& model, ParamRole role) = [](const ModelConfig&, ParamRole) { return 1.0f; };
};

std::span<const Family* const> all_families();             // in the order of their names
const Family* find_family(const std::string& model_type);  // null: unknown
std::string family_types();                                // "'llama' or 'mixtral'", for messages
std::string family_names(const std::string& last);         // "Llama or Mixtral" for last = " or "

}  // namespace upcycle
