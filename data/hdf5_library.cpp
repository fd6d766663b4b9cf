#include "data/hdf5_library.h"

#include <fmt/core.h>
#include <hdf5.h>

#include "core/check.h"

namespace upcycle {

std::string hdf5_library() {
  unsigned major = 0, minor = 0, release = 0;
  UPCYCLE_CHECK(H5get_libversion(&major, &minor, &release) >= 0, "HDF5 does not say its version");
  return fmt::format("HDF5 {}.{}.{}", major, minor, release);
}

}  // namespace upcycle
