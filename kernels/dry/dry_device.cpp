#include "kernels/dry/dry_device.h"

#include <sys/mman.h>

#include <algorithm>

#include "core/error.h"

namespace upcycle {

std::unique_ptr<Stream> DryDevice::make_stream() { return make_cpu_device()->make_stream(); }

namespace {

void* reserve(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    input_error(
        "plan: this rank needs {:.3g} GiB in one piece, for which this machine has no addresses; plan with more ranks "
        "(--world, --parallel.tp, --parallel.ep), or lift its limit on address space (ulimit -v, vm.overcommit_memory)",
        static_cast<double>(bytes) / (1 << 30));
  return p;
}

}  // namespace

void* DryDevice::allocate(std::size_t bytes) {
  void* p = reserve(bytes);
  in_use_ += bytes;
  peak_ = std::max(peak_, in_use_);
  return p;
}

void DryDevice::release(void* data, std::size_t bytes) {
  if (data == nullptr) return;
  release_host(data, bytes);
  in_use_ -= bytes;
}

void* DryDevice::allocate_host(std::size_t bytes) { return reserve(bytes); }

void DryDevice::copy(Stream&, CopyKind kind, void* to, const void* from, const Runs& runs) {
  if (kind == CopyKind::ToHost) copy_host_runs(to, from, runs);
}

}  // namespace upcycle
