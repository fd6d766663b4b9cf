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

// Ends the export by an InputError: the family has no word for what model.FIELD is.
using Refuse = std::function<void(const char* field, const std::string& found, const std::string& expected)>;

// A family of models in Hugging Face's form: how it calls itself, its config keys and its tensors, and what it can not
// express. families/FAMILY.cpp defines one as `families::FAMILY`; nothing else names it.
struct Family {
  const char* name;                        // in messages
  const char* model_type;                  // in config.json
  const char* architecture;                // in config.json
  double rope_theta;                       // what an absent key means in transformers
  std::vector<const char*> required = {};  // keys that must be there, beside those of all families (hf_config.cpp)
  // What the family's own keys say; the others were read.
  void (*read)(const ConfigObject& file, ModelConfig& model);
  // Refuses what the family can not express; adds its own keys to the others, or puts them in their place.
  void (*write)(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file);
  const char* (*pattern)(ParamRole role) = canonical_pattern;  // names of tensors, as canonical_pattern has them
};

std::span<const Family* const> all_families();             // in the order of their names
const Family* find_family(const std::string& model_type);  // null: unknown
std::string family_types();                                // "'llama' or 'mixtral'", for messages
std::string family_names(const std::string& last);         // "Llama or Mixtral", of " or "

// The family that a model is exported as: the one of that model_type, of "" the one whose names are the canonical ones,
// Llama where the model is dense and else Mixtral. InputError where there is none.
const Family& exported_family(const ModelConfig& model, const std::string& model_type);

}  // namespace upcycle
