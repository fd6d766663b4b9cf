#pragma once
#include <fmt/core.h>

#include <string>

namespace upcycle {

// Throws Error (core/error.h) with rank and host, the message, the expression and file:line.
[[noreturn]] void throw_error(const char* file, int line, const char* expression, const std::string& message);

}  // namespace upcycle

// Checks an invariant or an external call; the message says what was expected of it.
#define UPCYCLE_CHECK(condition, ...)                                                     \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::upcycle::throw_error(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)
