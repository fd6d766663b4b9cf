#pragma once
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/source_root.h"

// The folder of the real models ($UPCYCLE_REAL_MODELS, by default ../shared/models beside the repository), or, if there
// is none, "" after printing one line: the caller then skips its test. With UPCYCLE_REQUIRE_REAL_MODELS=1, as in CI,
// their absence fails the test.
inline std::string real_models() {
  namespace fs = std::filesystem;
  const char* const given = std::getenv("UPCYCLE_REAL_MODELS");
  const fs::path folder = given != nullptr ? fs::path(given) : tests_root() / ".." / ".." / "shared" / "models";
  if (fs::is_directory(folder)) return folder.lexically_normal().string();
  const char* const required = std::getenv("UPCYCLE_REQUIRE_REAL_MODELS");
  if (required != nullptr && std::string(required) == "1")
    ADD_FAILURE() << "real models not found at " << folder.string() << "; set UPCYCLE_REAL_MODELS";
  else
    std::printf("not run: no real models at %s (set UPCYCLE_REAL_MODELS)\n", folder.c_str());
  return "";
}
