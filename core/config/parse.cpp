#include "core/config/parse.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/config/fields.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

using nlohmann::json;

constexpr const char* command_line = "command line";

// A found value and its kind, short enough for one line.
std::string shown(const json& value) {
  if (value.is_object()) return value.empty() ? "an empty object" : "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  if (value.is_string()) return "the text " + quote_text(value.get_ref<const std::string&>());
  return value.dump();
}

// Puts one JSON value in one field; the type of the slot chooses the overload.
struct Assign {
  const json& value;
  const Field& field;
  const std::string& where;

  [[noreturn]] void wrong_type() const { field_error(where, field.key, shown(value), type_name(field)); }

  std::string text(const json& v) const {
    if (!v.is_string()) wrong_type();
    const std::string& s = v.get_ref<const std::string&>();
    if (s.find('\0') != std::string::npos) field_error(where, field.key, quote_text(s), "a text without NUL bytes");
    return s;
  }

  double number(const json& v) const {
    if (!v.is_number()) wrong_type();
    const double d = v.get<double>();
    if (!std::isfinite(d)) field_error(where, field.key, shown(v), "a finite number");
    return d;
  }

  double not_negative(const std::string& key, const json& v) const {
    const double d = number(v);
    if (d < 0) field_error(where, field.key, fmt::format("{} {}", key, d), "a number >= 0");
    return d;
  }

  std::int64_t integer(const json& v) const {
    if (!v.is_number()) wrong_type();
    if (v.is_number_float()) {  // 1e6 is an integer, 1.5 is not; past 2^53 a double is not exact
      const double d = v.get<double>();
      if (!std::isfinite(d) || d != std::floor(d) || std::abs(d) > 0x1p53) wrong_type();
      return static_cast<std::int64_t>(d);
    }
    if (!v.is_number_unsigned()) return v.get<std::int64_t>();
    const std::uint64_t u = v.get<std::uint64_t>();
    if (u > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      field_error(where, field.key, shown(v), "an integer below 2^63");
    return static_cast<std::int64_t>(u);
  }

  void operator()(std::int64_t* to) const { *to = integer(value); }
  void operator()(std::vector<std::int64_t>* to) const {
    if (!value.is_array()) wrong_type();
    to->clear();
    for (const json& v : value) to->push_back(integer(v));
  }
  void operator()(double* to) const { *to = number(value); }
  void operator()(bool* to) const {
    if (!value.is_boolean()) wrong_type();
    *to = value.get<bool>();
  }
  void operator()(std::string* to) const {
    if (field.list_from == 0 || !value.is_array()) {
      *to = text(value);
      return;
    }
    if (value.empty()) field_error(where, field.key, "an empty list", allowed_values(field));
    to->clear();
    for (const json& v : value) *to += (to->empty() ? "" : ",") + text(v);
  }
  void operator()(std::vector<std::string>* to) const {
    if (!value.is_array()) wrong_type();
    to->clear();
    for (const json& v : value) to->push_back(text(v));
  }
  void operator()(std::vector<double>* to) const {
    if (!value.is_array()) wrong_type();
    to->clear();
    for (const json& v : value) to->push_back(number(v));
  }
  void operator()(std::vector<WeightedPath>* to) const {
    to->clear();
    if (value.is_string()) {
      to->push_back({text(value), 1});
      return;
    }
    if (!value.is_array()) wrong_type();
    for (const json& entry : value) {
      if (!entry.is_object() || !entry.contains("path")) wrong_type();
      WeightedPath p;
      for (const auto& [key, v] : entry.items()) {
        if (key == "path") {
          p.path = text(v);
        } else if (key == "weight") {
          p.weight = number(v);
        } else {
          input_error("unknown key {} in an entry of {} in {}: expected path and weight", quote_text(key), field.key,
                      where);
        }
      }
      if (!(p.weight > 0)) field_error(where, field.key, fmt::format("weight {}", p.weight), "a weight > 0");
      to->push_back(std::move(p));
    }
  }
  void operator()(std::vector<ParamRule>* to) const {
    if (!value.is_array()) wrong_type();
    to->clear();
    for (const json& entry : value) {
      if (!entry.is_object() || !entry.contains("params")) wrong_type();
      ParamRule r;
      for (const auto& [key, v] : entry.items()) {
        if (key == "params") {
          r.params = text(v);
        } else if (key == "lr_mult") {
          r.lr_mult = not_negative(key, v);
        } else if (key == "weight_decay") {
          r.weight_decay = not_negative(key, v);
        } else {
          input_error("unknown key {} in an entry of {} in {}: expected params, lr_mult and weight_decay",
                      quote_text(key), field.key, where);
        }
      }
      if (r.params.empty()) field_error(where, field.key, "empty params", "a pattern of names");
      to->push_back(std::move(r));
    }
  }
  void operator()(std::map<std::string, std::string>* to) const {
    to->clear();
    if (value.is_string()) {
      (*to)["valid"] = text(value);
      return;
    }
    if (!value.is_object()) wrong_type();
    for (const auto& [name, path] : value.items()) {
      if (name.empty()) field_error(where, field.key, "a set with an empty name", "a name for each set");
      (*to)[text(json(name))] = text(path);
    }
  }
};

[[noreturn]] void unknown_key(const std::string& key, const std::string& where) {
  const std::string in = where == command_line ? "on the command line" : "in " + where;
  const std::string near = nearest(key, keys_and_sections());
  if (near.empty()) input_error("unknown key {} {}: `upcycle help config` lists all keys", quote_text(key), in);
  input_error("unknown key {} {}: did you mean '{}'?", quote_text(key), in, near);
}

void assign(Config& config, const Field& field, const json& value, const std::string& where) {
  std::visit(Assign{value, field, where}, field.slot(config));
  check_allowed(config, field, where);
  if (!config.was_given(field.key)) config.given.push_back(field.key);
  if (where == command_line) config.overridden.push_back(field.key);
}

// `prefix` is "" at the top and "section." below. Recursion is only as deep as the table's keys, however deep the text.
void assign_object(Config& config, const json& object, const std::string& prefix, const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    const std::string dotted = prefix + key;
    if (key.find('.') != std::string::npos) {
      input_error("unknown key {} in {}: in JSON a dot is an object in an object, as in {{\"train\": {{\"lr\": 0.1}}}}",
                  quote_text(dotted), where);
    } else if (const Field* field = find_field(dotted)) {
      assign(config, *field, value, where);
    } else if (!is_section(dotted)) {
      unknown_key(dotted, where);
    } else if (!value.is_object()) {
      field_error(where, dotted, shown(value), "an object { ... }");
    } else {
      assign_object(config, value, dotted + ".", where);
    }
  }
}

json parse_object(const std::string& text, const std::string& where) {
  json root = parse_strict_json(text, where);
  if (!root.is_object()) input_error("{}: found {}, expected a JSON object {{ ... }}", where, shown(root));
  return root;
}

// A value without quotes is a text, so that paths and names need none on the command line.
json override_value(const Field& field, const std::string& text) {
  Config scratch;
  const Slot slot = field.slot(scratch);
  const bool takes_text = std::holds_alternative<std::string*>(slot) ||
                          std::holds_alternative<std::vector<WeightedPath>*>(slot) ||
                          std::holds_alternative<std::map<std::string, std::string>*>(slot);
  const bool takes_list = std::holds_alternative<std::vector<std::string>*>(slot);
  if (json::accept(text)) {
    json value = parse_strict_json(text, command_line);
    const bool plain_text =
        std::holds_alternative<std::string*>(slot) && !value.is_string() && !(field.list_from > 0 && value.is_array());
    if (!plain_text && !(takes_text && value.is_primitive() && !value.is_string()) &&
        !(takes_list && !value.is_array()))
      return value;
  }
  const bool takes_objects = std::holds_alternative<std::vector<ParamRule>*>(slot);
  const bool meant_as_json =
      !std::holds_alternative<std::string*>(slot) && (text.starts_with('[') || text.starts_with('{'));
  if (meant_as_json && (takes_text || takes_list || takes_objects))
    return parse_strict_json(text, "command line: " + field.key);
  json value = text;
  try {
    (void)value.dump();
  } catch (const json::exception&) {
    field_error(command_line, field.key, quote_text(text), "text in UTF-8");
  }
  return takes_list ? json::array({value}) : value;
}

// data.blend becomes data.train, as if that had been given.
void read_blend(Config& config) {
  const std::string file = config.data.blend, key = "data.blend";
  if (file.empty()) return;
  if (config.was_given("data.train"))
    field_error(config.where(key), key, quote_text(file), "it absent beside data.train", "give one of the two");
  const std::string text = read_config_file(file);
  json list = json::array();
  if (const std::size_t first = text.find_first_not_of(" \t\r\n"); first != text.npos && text[first] == '[') {
    list = parse_strict_json(text, file);
  } else {
    std::istringstream words(text);
    for (std::string weight, path; words >> weight;) {
      double w = 0;
      const auto [end, error] = std::from_chars(weight.data(), weight.data() + weight.size(), w);
      if (error != std::errc{} || end != weight.data() + weight.size() || !(words >> path))
        field_error(file, key, quote_text(weight) + (path.empty() ? "" : " after " + quote_text(path)),
                    "WEIGHT PREFIX pairs", "give each token set its weight, in one order");
      list.push_back({{"path", path}, {"weight", w}});
    }
  }
  assign(config, *find_field("data.train"), list, file);
  if (config.data.train.empty()) field_error(file, key, "no token set", "WEIGHT PREFIX pairs");
  config.data.blend.clear();
}

void apply_override(Config& config, const std::string& argument) {
  const std::string_view body = std::string_view(argument).substr(argument.starts_with("--") ? 2 : 0);
  const std::size_t equals = body.find('=');
  const std::string key(body.substr(0, equals));
  const Field* field = find_field(key);
  if (field == nullptr && !is_section(key)) unknown_key(key, command_line);
  if (equals == std::string_view::npos)
    field_error(command_line, key, "no value", "KEY=VALUE", "write --" + key + "=VALUE, without a space");
  const std::string text(body.substr(equals + 1));
  if (field != nullptr) {
    assign(config, *field, override_value(*field, text), command_line);
  } else {
    json object;
    if (json::accept(text) || text.starts_with('{')) object = parse_strict_json(text, "command line: " + key);
    if (!object.is_object())
      field_error(command_line, key, quote_text(text), "a JSON object",
                  "or set one key below it: --" + key + ".KEY=VALUE");
    assign_object(config, object, key + ".", command_line);
  }
}

}  // namespace

Config parse_config(const std::string& file, const std::vector<std::string>& overrides) {
  return parse_config_text(file.empty() ? "{}" : read_config_file(file), file, overrides);
}

Config parse_config_text(const std::string& text, const std::string& source_name,
                         const std::vector<std::string>& overrides) {
  Config config;
  config.file = source_name;
  assign_object(config, parse_object(text, source_name), "", source_name);
  for (const std::string& argument : overrides) apply_override(config, argument);
  read_blend(config);
  TrainConfig& t = config.train;
  if (!config.was_given("train.min_lr")) {
    if (t.min_lr_ratio >= 0)
      t.min_lr = t.min_lr_ratio * t.lr;
    else if (config.was_given("train.lr"))
      t.min_lr = t.lr / 10;
  }
  if (t.optimizer == "lion" && !config.was_given("train.beta2")) t.beta2 = 0.99;
  return config;
}

ModelConfig model_from_json(const std::string& text, const std::string& source_name) {
  Config config;
  assign_object(config, parse_object(text, source_name), "model.", source_name);
  return config.model;
}

bool is_override(std::string_view argument) {
  if (argument.starts_with("--")) argument.remove_prefix(2);
  const std::size_t equals = argument.find('=');
  if (equals == std::string_view::npos || equals == 0) return false;
  for (const char c : argument.substr(0, equals))
    if (!(c == '.' || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
      return false;
  return true;
}

}  // namespace upcycle
