#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/device.h"

namespace upcycle {
namespace {

std::atomic<std::uint64_t> allocations{0};

class CpuStream final : public Stream {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  Event record() override { return {}; }
  void wait(const Event& event) override { finish(event); }
  void synchronize() override {}
  void* native() override { return nullptr; }

  void attach(Progress& progress) override { attached_.push_back(&progress); }
  void detach(Progress& progress) override { std::erase(attached_, &progress); }
  void poll() override {
    for (Progress* p : attached_) p->poll();
  }

 private:
  std::vector<Progress*> attached_;
};

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CpuStream>(); }

  void* allocate(std::size_t bytes) override {
    count_device_allocation();
    return allocate_host(bytes);
  }
  void release(void* data, std::size_t bytes) override { release_host(data, bytes); }
  void copy(Stream&, CopyKind, void* to, const void* from, const Runs& runs) override {
    copy_host_runs(to, from, runs);
  }
};

}  // namespace

// Anonymous pages are zero and are not resident until touched; huge pages cut TLB misses in large GEMM operands.
void* Device::allocate_host(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  UPCYCLE_CHECK(p != MAP_FAILED, "out of memory: {} bytes asked for", bytes);
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}
void Device::release_host(void* data, std::size_t bytes) {
  if (data != nullptr) munmap(data, bytes);
}

void copy_host_runs(void* to, const void* from, const Runs& runs) {
  if (runs.bytes == 0 || to == from) return;
  for (std::size_t r = 0; r < runs.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * runs.to_pitch, static_cast<const char*>(from) + r * runs.from_pitch,
                runs.bytes);
}

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }
std::uint64_t device_allocation_count() { return allocations.load(); }
void count_device_allocation() { ++allocations; }

}  // namespace upcycle
