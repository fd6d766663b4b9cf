#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "tests/source_root.h"

inline std::string golden_folder(const std::string& name) { return (tests_root() / "golden" / name).string(); }

// The golden models, by the names of their folders; if there are none, a name that does not exist, so that tests fail.
inline std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(tests_root() / "golden", missing))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  if (names.empty()) names.push_back("none");
  std::sort(names.begin(), names.end());
  return names;
}
