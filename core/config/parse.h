#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/config/config.h"

namespace upcycle {

// Reads `file` ("" = none: defaults), at most 1 MiB, then applies overrides "--a.b=value" or "a.b=value", in order.
// Values of overrides are JSON where they parse as the field's type, else text. Throws InputError naming file, field,
// found and expected (type, range, known names); an unknown key names the nearest known one.
Config parse_config(const std::string& file, const std::vector<std::string>& overrides);
Config parse_config_text(const std::string& text, const std::string& source_name,
                         const std::vector<std::string>& overrides);

// Reads what to_json(ModelConfig) writes (describe.h); absent keys keep their defaults. Not yet checked: call
// check_model.
ModelConfig model_from_json(const std::string& text, const std::string& source_name);

// True for "a.b=value" and "--a.b=value" with any key, known or not: a command passes these on to parse_config.
bool is_override(std::string_view argument);

}  // namespace upcycle
