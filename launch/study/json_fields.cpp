#include "launch/study/json_fields.h"

#include <algorithm>
#include <cmath>

#include "core/config/fields.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {

using Json = nlohmann::ordered_json;

namespace {
const Json kNothing;
const Json kEmpty = Json::object();
}  // namespace

std::string shown(const Json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  const std::string text = value.dump();
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

JsonFields::JsonFields(const Json& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (!object.is_object())
    field_error(file_, path_.empty() ? "the file" : path_, shown(object), "a JSON object {...}",
                "see `upcycle help study`");
}

void JsonFields::refuse(const std::string& key, const std::string& found, const std::string& expected,
                        const std::string& advice) const {
  field_error(file_, at(key), found, expected, advice.empty() ? "see `upcycle help study`" : advice);
}

const Json& JsonFields::any(const std::string& key) {
  asked_.push_back(key);
  const auto it = object_->find(key);
  return it == object_->end() ? kNothing : *it;
}

bool JsonFields::has(const std::string& key) { return !any(key).is_null(); }

std::string JsonFields::text(const std::string& key, const std::string& absent) {
  const Json& value = any(key);
  if (value.is_null()) return absent;
  if (!value.is_string()) refuse(key, shown(value), "text in quotes");
  return value.get<std::string>();
}

std::string JsonFields::required_text(const std::string& key) {
  const std::string value = text(key, "");
  if (value.empty()) refuse(key, "nothing", "text in quotes");
  return value;
}

std::string JsonFields::one_of(const std::string& key, const std::vector<std::string>& names) {
  const std::string value = text(key, names[0]);
  if (std::ranges::find(names, value) != names.end()) return value;
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : " | ") + name;
  refuse(key, quote_text(value), all);
}

std::int64_t JsonFields::count(const std::string& key, std::int64_t absent, std::int64_t least, double most) {
  const Json& value = any(key);
  if (value.is_null()) return absent;
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= static_cast<double>(least) && number <= most) || number != std::floor(number))
    refuse(key, shown(value),
           most < 0x1p53 ? fmt::format("a whole number, {} to {:g}", least, most)
                         : fmt::format("a whole number, at least {}", least));
  return static_cast<std::int64_t>(number);
}

double JsonFields::number(const std::string& key, double absent, double least, double most) {
  const Json& value = any(key);
  if (value.is_null()) return absent;
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= least && number <= most))
    refuse(key, shown(value), fmt::format("a number, {:g} to {:g}", least, most));
  return number;
}

bool JsonFields::flag(const std::string& key, bool absent) {
  const Json& value = any(key);
  if (value.is_null()) return absent;
  if (!value.is_boolean()) refuse(key, shown(value), "true or false");
  return value.get<bool>();
}

std::vector<double> JsonFields::ascending(const std::string& key) {
  const Json& value = any(key);
  std::vector<double> numbers;
  if (value.is_null()) return numbers;
  const std::string expected = "a list of positive numbers, each larger than the one before";
  if (!value.is_array() || value.empty()) refuse(key, shown(value), expected);
  for (const Json& x : value) {
    const double number = x.is_number() ? x.get<double>() : 0;
    if (!(number > 0 && number < 1e18) || (!numbers.empty() && number <= numbers.back()))
      refuse(key, shown(value), expected);
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::string> JsonFields::texts(const std::string& key) {
  const Json& value = any(key);
  std::vector<std::string> all;
  if (value.is_null()) return all;
  if (!value.is_array()) refuse(key, shown(value), "a list of texts");
  for (const Json& x : value) {
    if (!x.is_string() || x.get_ref<const std::string&>().empty()) refuse(key, shown(value), "a list of texts");
    all.push_back(x.get<std::string>());
  }
  return all;
}

JsonFields JsonFields::object(const std::string& key) {
  const Json& value = any(key);
  return {value.is_null() ? kEmpty : value, file_, at(key)};
}

Json JsonFields::config(const std::string& key) {
  const Json& value = any(key);
  if (value.is_null()) return Json::object();
  if (!value.is_object()) refuse(key, shown(value), "an object of config keys (`upcycle help config`)");
  return value;
}

void JsonFields::done() const {
  for (const auto& [key, value] : object_->items()) {
    if (std::ranges::find(asked_, key) != asked_.end()) continue;
    const std::string near = nearest(key, asked_);
    std::string known;
    for (const std::string& name : asked_)
      if (known.find(name) == std::string::npos) known += (known.empty() ? "" : ", ") + name;
    refuse(key, "an unknown key", near.empty() ? "one of " + known : "perhaps " + quote_text(near));
  }
}

}  // namespace upcycle
