#pragma once
#include <string>

#include "core/config/config.h"

namespace upcycle {

std::string to_json(const Config& config);      // the resolved config, every key, indented
std::string to_json(const ModelConfig& model);  // only the model section (manifest, inspect)
std::string config_help();                      // one line per key: name, type, default, allowed values, meaning

}  // namespace upcycle
