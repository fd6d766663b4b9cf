#pragma once
#include <cstdlib>
#include <filesystem>

// The folder tests/ of the source tree, which has the golden models. Programs that do not run where they were built
// take it from $UPCYCLE_TESTS_ROOT.
inline std::filesystem::path tests_root() {
  const char* const given = std::getenv("UPCYCLE_TESTS_ROOT");
  return given != nullptr ? std::filesystem::path(given) : std::filesystem::path(__FILE__).parent_path();
}
