#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/config/config.h"

namespace upcycle {

// Where a field's value lives in a Config.
using Slot = std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::string>*, std::vector<double>*,
                          std::vector<std::int64_t>*, std::vector<WeightedPath>*, std::vector<ParamRule>*,
                          std::map<std::string, std::string>*>;

struct Range {
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool open_min = false, open_max = false;  // the limit itself is excluded
  bool contains(double x) const;
};

// One row of the table of all fields.
struct Field {
  std::string key;  // dotted, e.g. "train.lr"
  Slot (*slot)(Config&);
  std::string meaning;
  std::vector<std::string> names = {};  // of a string field: the allowed values; empty: any
  Range range = {};                     // of a number
  bool of_experts = false;              // a key of `model` that describes experts: upcycling sets it
  std::size_t list_from = 0;            // of a string field: names from this one on may be joined by commas; 0: none
};

const std::vector<Field>& fields();                                // in the order of the structs
const Field* find_field(std::string_view key);                     // null: unknown
bool is_section(std::string_view key);                             // "train", "model.rope_scaling"
std::vector<std::string> keys_and_sections();                      // candidates for the suggestion for an unknown key
std::string type_name(const Field& field);                         // "an integer", "a list of texts", ...
std::string allowed_values(const Field& field);                    // "adamw | sgd", ">= 0", "in [0, 1)"; "" = anything
std::string value_text(const Config& config, const Field& field);  // as JSON, on one line

// `model`, but with the expert fields of `experts`.
ModelConfig with_experts_of(const ModelConfig& experts, const ModelConfig& model);

// Throws InputError when the value in `config` is not among the field's names or outside its range.
void check_allowed(const Config& config, const Field& field, const std::string& where);

// "where: key: found F, expected E; ADVICE", the shape of every message about a value.
[[noreturn]] void field_error(const std::string& where, std::string_view key, const std::string& found,
                              const std::string& expected, const std::string& advice = "");

}  // namespace upcycle
