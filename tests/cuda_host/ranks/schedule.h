#pragma once
#include <cstdint>

#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

// While it lives the emulated streams hold their work back and pass one another at random, in an order of the seed's
// and the rank's: results that are not waited for are not there. Else every op is done when it is issued.
class DeferredStreams {
 public:
  explicit DeferredStreams(std::uint64_t seed) : before_(emul::options().deferred) {
    emul::sync_device();
    emul::options().deferred = true;
    emul::reseed(100 * seed + static_cast<std::uint64_t>(mpi_session().rank()));
  }
  ~DeferredStreams() {
    emul::sync_device();
    emul::options().deferred = before_;
  }
  DeferredStreams(const DeferredStreams&) = delete;
  DeferredStreams& operator=(const DeferredStreams&) = delete;

 private:
  bool before_;
};

}  // namespace upcycle::test
