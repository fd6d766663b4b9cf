// Preloaded by tests: while the file that HOLD_FSYNC names is there no fsync ends (where HOLD_FSYNC_OF is set: none of
// a file with that in its path), as on a file system that hangs, so that a save stays under way.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace {
bool is_held(int descriptor) {
  const char* const part = std::getenv("HOLD_FSYNC_OF");
  if (part == nullptr) return true;
  char path[4096];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), path, sizeof(path));
  return n > 0 && std::string_view(path, static_cast<std::size_t>(n)).find(part) != std::string_view::npos;
}
}  // namespace

extern "C" int fsync(int descriptor) {
  const char* const held = std::getenv("HOLD_FSYNC");
  while (held != nullptr && is_held(descriptor) && ::access(held, F_OK) == 0) ::usleep(20000);
  static const auto real = reinterpret_cast<int (*)(int)>(::dlsym(RTLD_NEXT, "fsync"));
  return real(descriptor);
}
