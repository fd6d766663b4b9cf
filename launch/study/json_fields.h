#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace upcycle {

// Reads one object of a JSON file key by key; every wrong value, and every key that was not asked for, is an InputError
// that names file, field, found and expected.
class JsonFields {
 public:
  using Json = nlohmann::ordered_json;
  // `path`: of the object in the file, "" = the whole; `object` must outlive this.
  JsonFields(const Json& object, std::string file, std::string path);

  bool has(const std::string& key);         // null counts as absent
  const Json& any(const std::string& key);  // of an absent key null
  std::string text(const std::string& key, const std::string& absent);
  std::string one_of(const std::string& key, const std::vector<std::string>& names);  // absent: the first
  std::string required_text(const std::string& key);
  std::int64_t count(const std::string& key, std::int64_t absent, std::int64_t least, double most = 0x1p53);
  double number(const std::string& key, double absent, double least, double most);
  bool flag(const std::string& key, bool absent);
  std::vector<double> ascending(const std::string& key);  // positive numbers, strictly ascending; absent: empty
  std::vector<std::string> texts(const std::string& key);
  JsonFields object(const std::string& key);  // absent: an empty one
  Json config(const std::string& key);        // an object of config keys, read later; absent: {}

  void done() const;  // refuses the keys that were not asked for
  [[noreturn]] void refuse(const std::string& key, const std::string& found, const std::string& expected,
                           const std::string& advice = "") const;
  const Json& json() const { return *object_; }
  std::string at(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  const std::string& file() const { return file_; }

 private:
  const Json* object_;
  std::string file_, path_;
  std::vector<std::string> asked_;
};

std::string shown(const nlohmann::ordered_json& value);  // for messages, shortened

}  // namespace upcycle
