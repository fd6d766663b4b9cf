#include <sys/mman.h>
#include <unistd.h>

#include "core/check.h"
#include "tests/fuzz/target.h"

namespace upcycle::fuzz {

std::string file_with(std::string_view bytes) {
  static const int file = memfd_create("input", MFD_CLOEXEC);
  UPCYCLE_CHECK(file >= 0 && ftruncate(file, 0) == 0 &&
                    pwrite(file, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
                "no file in memory");
  return "/proc/self/fd/" + std::to_string(file);
}

}  // namespace upcycle::fuzz
