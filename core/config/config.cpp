#include "core/config/config.h"

#include <algorithm>

namespace upcycle {
namespace {

bool contains(const std::vector<std::string>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

std::string Config::where(std::string_view key) const {
  if (contains(overridden, key)) return "command line";
  return was_given(key) ? file : "default";
}

bool Config::was_given(std::string_view key) const { return contains(given, key); }

}  // namespace upcycle
