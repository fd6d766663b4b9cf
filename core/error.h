#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace upcycle {

// Two kinds of failure, which end differently:
//   InputError  the user can mend it (a file, a field, a layout). Every rank can agree on it: rank 0 prints one
//               line naming file, field, found, expected and what to do; exit code 2.
//   Error       we can not go on (a broken invariant, a failed system call: UPCYCLE_CHECK, core/check.h). Printed with
//               rank, host, expression and file:line, then the job is aborted.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Set once, when the communicators exist, so that every later Error says where it happened.
void set_error_origin(int rank, const std::string& host);
const std::string& error_origin();  // "rank 1 on node2: ", or "" before

template <class... Args>
[[noreturn]] void input_error(fmt::format_string<Args...> format, Args&&... args) {
  throw InputError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace upcycle
