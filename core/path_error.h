#pragma once
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace upcycle {

// Calls f and turns filesystem errors (no permission, a name too long) into InputError: the user can mend them.
template <class F>
decltype(auto) with_path_errors(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const std::filesystem::filesystem_error& e) {
    input_error("{}: {}; choose a path that can be used, or mend its permissions", e.path1().string(),
                e.code().message());
  }
}

}  // namespace upcycle
