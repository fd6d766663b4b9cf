#pragma once
#include <string>

#include "core/config/config.h"

namespace upcycle {

std::string to_json(const Config& config);      // the resolved config, every key, indented
std::string to_json(const ModelConfig& model);  // the model section alone (manifest, inspect)
std::string config_help();                      // one line a key: name, type, default, allowed values, meaning

}  // namespace upcycle
