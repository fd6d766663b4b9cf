#include "core/config/describe.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/config/fields.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;  // clang 14 does not find it by itself

Slot slot_of(const Config& config, const Field& field) {
  return field.slot(const_cast<Config&>(config));  // only read through here
}

using Json = nlohmann::ordered_json;

Json value_json(const Config& config, const Field& field) {
  return std::visit(Overloaded{[](const std::vector<WeightedPath>* paths) {
                                 Json list = Json::array();
                                 for (const WeightedPath& p : *paths)
                                   list.push_back(Json{{"path", p.path}, {"weight", p.weight}});
                                 return list;
                               },
                               [](const std::vector<ParamRule>* rules) {
                                 Json list = Json::array();
                                 for (const ParamRule& r : *rules) {
                                   list.push_back(Json{{"params", r.params}, {"lr_mult", r.lr_mult}});
                                   if (r.weight_decay >= 0) list.back()["weight_decay"] = r.weight_decay;
                                 }
                                 return list;
                               },
                               [](const std::map<std::string, std::string>* sets) {
                                 Json object = Json::object();
                                 for (const auto& [name, path] : *sets) object[name] = path;
                                 return object;
                               },
                               [](const auto* value) { return Json(*value); }},
                    slot_of(config, field));
}

// {"train": {"lr": ...}} for every field whose key starts with `prefix`, which is left off.
Json section_json(const Config& config, std::string_view prefix) {
  Json root = Json::object();
  for (const Field& f : fields()) {
    if (!f.key.starts_with(prefix)) continue;
    std::string path = f.key.substr(prefix.size());
    std::replace(path.begin(), path.end(), '.', '/');
    root[Json::json_pointer("/" + path)] = value_json(config, f);
  }
  return root;
}

}  // namespace

std::string type_name(const Field& field) {
  Config c;
  return std::visit(
      Overloaded{
          [](std::int64_t*) { return "an integer"; }, [](double*) { return "a number"; },
          [](bool*) { return "true or false"; }, [](std::string*) { return "a text"; },
          [](std::vector<std::int64_t>*) { return "a list of integers"; },
          [](std::vector<std::string>*) { return "a list of texts"; },
          [](std::vector<double>*) { return "a list of numbers"; },
          [](std::vector<WeightedPath>*) { return "a PREFIX or a list of {\"path\": PREFIX, \"weight\": number}"; },
          [](std::vector<ParamRule>*) {
            return "a list of {\"params\": PATTERN, \"lr_mult\": number, \"weight_decay\": number}";
          },
          [](std::map<std::string, std::string>*) { return "a PREFIX or an object {\"name\": PREFIX, ...}"; }},
      field.slot(c));
}

std::string allowed_values(const Field& field) {
  if (!field.names.empty()) {
    std::string all;
    for (std::size_t i = 0; i < field.names.size(); ++i) {
      const std::string& n = field.names[i];
      const bool in_list = field.list_from > 0 && i > field.list_from;
      all += fmt::format("{}{}{}",
                         all.empty() ? ""
                         : in_list   ? ", "
                                     : " | ",
                         field.list_from > 0 && i == field.list_from ? "a list of " : "", n.empty() ? "\"\"" : n);
    }
    return all;
  }
  const Range& r = field.range;
  if (!std::isinf(r.max) && r.max < 1000)
    return fmt::format("in {}{}, {}{}", r.open_min ? '(' : '[', r.min, r.max, r.open_max ? ')' : ']');
  if (std::isinf(r.min)) return "";
  return fmt::format("{} {}", r.open_min ? ">" : ">=", r.min);
}

std::string value_text(const Config& config, const Field& field) { return value_json(config, field).dump(); }

void field_error(const std::string& where, std::string_view key, const std::string& found, const std::string& expected,
                 const std::string& advice) {
  input_error("{}: {}: found {}, expected {}; {}", where, key, found, expected,
              advice.empty() ? "see `upcycle help config`" : advice);
}

namespace {
// Names joined by commas.
void check_list(const std::string& text, const Field& field, const std::string& where) {
  const std::vector<std::string> names(field.names.begin() + static_cast<std::ptrdiff_t>(field.list_from),
                                       field.names.end());
  std::vector<std::string> seen;
  std::istringstream in(text + ",");
  for (std::string name; std::getline(in, name, ',');) {
    if (std::find(names.begin(), names.end(), name) == names.end())
      field_error(where, field.key, quote_text(name) + " in a list", allowed_values(field));
    if (std::find(seen.begin(), seen.end(), name) != seen.end())
      field_error(where, field.key, quote_text(text), "each name once");
    seen.push_back(name);
  }
}
}  // namespace

void check_allowed(const Config& config, const Field& field, const std::string& where) {
  const Slot slot = slot_of(config, field);
  if (const auto* text = std::get_if<std::string*>(&slot); text != nullptr && !field.names.empty()) {
    if (std::find(field.names.begin(), field.names.end(), **text) != field.names.end()) return;
    if (field.list_from > 0 && (*text)->find(',') != std::string::npos) return check_list(**text, field, where);
    const std::string near = nearest(**text, field.names);
    field_error(where, field.key, quote_text(**text), allowed_values(field),
                near.empty() ? "" : "did you mean " + quote_text(near) + "?");
  }
  std::vector<double> values;
  if (const auto* integer = std::get_if<std::int64_t*>(&slot)) {
    values = {static_cast<double>(**integer)};
  } else if (const auto* integers = std::get_if<std::vector<std::int64_t>*>(&slot)) {
    values.assign((*integers)->begin(), (*integers)->end());
  } else if (const auto* number = std::get_if<double*>(&slot)) {
    values = {**number};
  }
  const auto outside =
      std::find_if(values.begin(), values.end(), [&](double value) { return !field.range.contains(value); });
  if (outside == values.end()) return;
  // A large maximum is shown only for a value that exceeds it: help leaves it out.
  const bool too_large = *outside > field.range.max && field.range.max >= 1000;
  field_error(where, field.key, value_text(config, field),
              too_large ? fmt::format("at most {:.0f}", field.range.max) : allowed_values(field));
}

std::string to_json(const Config& config) { return section_json(config, "").dump(2); }

std::string to_json(const ModelConfig& model) {
  Config c;
  c.model = model;
  return section_json(c, "model.").dump(2);
}

std::string config_help() {
  const Config defaults;
  std::string help = "Every key of the JSON config. On the command line: --KEY=VALUE, e.g. --train.lr=1e-4.\n";
  std::string section = "-";
  std::size_t width = 0;
  for (const Field& f : fields()) width = std::max(width, f.key.size());
  for (const Field& f : fields()) {
    const std::string top = f.key.find('.') == std::string::npos ? "" : f.key.substr(0, f.key.find('.'));
    if (top != section) help += '\n';
    section = top;
    const std::string allowed = allowed_values(f);
    // The names of a text field already show its type.
    const std::string type = f.names.empty() ? type_name(f) + (allowed.empty() ? "" : " " + allowed) : allowed;
    help += fmt::format("{:<{}}  {}; default {}; {}\n", f.key, width, type, value_text(defaults, f), f.meaning);
  }
  return help;
}

}  // namespace upcycle
