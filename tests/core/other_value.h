#pragma once
#include "core/config/fields.h"

namespace upcycle {

// Another value for the field than in `config`, as an override: another name for an enumerated text, a larger number,
// the other state of a switch, a list of the first layer.
inline std::string other_value(Config config, const Field& field) {
  const Slot slot = field.slot(config);
  if (const auto* text = std::get_if<std::string*>(&slot)) return field.names[**text == field.names[0] ? 1 : 0];
  if (const auto* on = std::get_if<bool*>(&slot)) return **on ? "false" : "true";
  if (const auto* n = std::get_if<std::int64_t*>(&slot)) return std::to_string(**n > 0 ? 2 * **n : 1);
  if (std::holds_alternative<std::vector<std::int64_t>*>(slot)) return "[0]";
  if (std::holds_alternative<std::vector<ParamRule>*>(slot)) return R"([{"params": "*", "lr_mult": 0.5}])";
  if (std::holds_alternative<std::vector<double>*>(slot)) return "[1.5,2.5]";
  const double x = *std::get<double*>(slot), twice = x > 0 ? 2 * x : 1;
  return std::to_string(field.range.contains(twice) ? twice : x / 2);
}

}  // namespace upcycle
