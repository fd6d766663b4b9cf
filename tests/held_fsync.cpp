// Preloaded by tests: while the file that HOLD_FSYNC names is there no fsync ends, as on a file system that hangs, so
// that a save stays under way.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

extern "C" int fsync(int descriptor) {
  const char* const held = std::getenv("HOLD_FSYNC");
  while (held != nullptr && ::access(held, F_OK) == 0) ::usleep(20000);
  static const auto real = reinterpret_cast<int (*)(int)>(::dlsym(RTLD_NEXT, "fsync"));
  return real(descriptor);
}
