#include "parallel/models/config_object.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {

using nlohmann::json;

std::string shown(const json& value) {
  if (value.is_string()) return quote_text(value.get_ref<const std::string&>());
  const std::string text = value.dump();
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

namespace {
// The parser reads whole numbers of at least 0 as unsigned.
bool fits(const json& value, std::int64_t most) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
}
}  // namespace

const json* ConfigObject::find(const char* key) const {
  const auto found = values.find(key);
  return found == values.end() || found->is_null() ? nullptr : &*found;
}

void ConfigObject::refuse(const char* key, const std::string& expected) const {
  const json* value = find(key);
  input_error("{}: {}: found {}, expected {}", where, key, value == nullptr ? "nothing" : shown(*value), expected);
}

std::int64_t ConfigObject::integer(const char* key, std::optional<std::int64_t> absent) const {
  const json* value = find(key);
  if (value == nullptr && absent) return *absent;
  // Every size fits 32 bits with room to spare; the limit keeps what is computed from them away from overflow.
  if (value == nullptr || !fits(*value, std::int64_t{1} << 40)) refuse(key, "a whole number from 0 to 2^40");
  return value->get<std::int64_t>();
}

std::vector<std::int64_t> ConfigObject::integers(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  const auto whole = [](const json& v) { return fits(v, std::int64_t{1} << 40); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), whole))
    refuse(key, "a list of whole numbers from 0 to 2^40");
  return value->get<std::vector<std::int64_t>>();
}

double ConfigObject::number(const char* key, std::optional<double> absent) const {
  const json* value = find(key);
  if (value == nullptr && absent) return *absent;
  if (value == nullptr || !value->is_number()) refuse(key, "a number");
  return value->get<double>();
}

bool ConfigObject::boolean(const char* key, bool absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::string ConfigObject::text(const char* key, const std::string& absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_string()) refuse(key, "text");
  return value->get<std::string>();
}

std::int64_t ConfigObject::token(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return -1;
  if (value->is_array() && !value->empty()) value = &value->front();
  if (!fits(*value, std::numeric_limits<std::int32_t>::max())) refuse(key, "a token id, or a list of them");
  return value->get<std::int64_t>();
}

void ConfigObject::require(const std::vector<const char*>& keys) const {
  std::string missing;
  for (const char* key : keys)
    if (!has(key)) missing += (missing.empty() ? "" : ", ") + std::string(key);
  if (!missing.empty()) input_error("{}: missing: {}; take the config.json that came with the model", where, missing);
}

}  // namespace upcycle
