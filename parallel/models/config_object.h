#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace upcycle {

// One object of a model's config.json. A key whose value is null is absent: transformers writes its defaults so.
// A wrong value is an InputError that names file and key; so is an absent one where no `absent` value is given.
struct ConfigObject {
  const nlohmann::json& values;
  std::string where;  // "config.json" or "config.json: rope_scaling"

  const nlohmann::json* find(const char* key) const;  // null: absent
  bool has(const char* key) const { return find(key) != nullptr; }
  std::int64_t integer(const char* key, std::optional<std::int64_t> absent = {}) const;  // 0 to 2^40
  std::vector<std::int64_t> integers(const char* key) const;                             // a list; absent: none
  double number(const char* key, std::optional<double> absent = {}) const;
  bool boolean(const char* key, bool absent) const;
  std::string text(const char* key, const std::string& absent) const;
  std::int64_t token(const char* key) const;  // of a list, the first; -1: absent

  void require(const std::vector<const char*>& keys) const;  // names all that are missing
  [[noreturn]] void refuse(const char* key, const std::string& expected) const;
};

std::string shown(const nlohmann::json& value);  // for messages, shortened

}  // namespace upcycle
