#include "data/weight_map.h"

#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"

namespace upcycle {

std::map<std::string, std::string> parse_weight_map(const std::string& text, const std::string& path) {
  const nlohmann::json json = parse_strict_json(text, path);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    input_error("{}: weight_map: expected an object of tensor names and file names", path);
  std::map<std::string, std::string> files;
  for (const auto& [name, value] : json["weight_map"].items()) {
    if (!value.is_string()) input_error("{}: weight_map: {}: expected a file name", path, quote_text(name));
    auto file = value.get<std::string>();
    if (!is_plain_file_name(file))
      input_error("{}: weight_map: {}: found {}, expected the name of a file in the same folder", path,
                  quote_text(name), quote_text(file));
    files.emplace(name, std::move(file));
  }
  return files;
}

}  // namespace upcycle
