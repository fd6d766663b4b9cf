#include "core/error.h"

#include "core/check.h"

namespace upcycle {
namespace {
std::string& origin() {
  static std::string text;
  return text;
}
}  // namespace

const std::string& error_origin() { return origin(); }
void set_error_origin(int rank, const std::string& host) { origin() = fmt::format("rank {} on {}: ", rank, host); }

void throw_error(const char* file, int line, const char* expression, const std::string& message) {
  throw Error(fmt::format("{}{} [{} failed at {}:{}]", origin(), message, expression, file, line));
}

}  // namespace upcycle
