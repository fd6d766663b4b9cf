#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "core/device.h"
#include "core/error.h"

namespace upcycle {
namespace {

std::atomic<std::uint64_t> allocations{0};

class CpuStream final : public Stream {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  Event record() override { return {}; }
  void wait(const Event& event) override {
    if (event.work != nullptr) event.work->finish(event.ticket);
  }
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

  // Anonymous pages are zero and are not resident until touched; huge pages cut TLB misses in large GEMM operands.
  void* allocate(std::size_t bytes) override {
    count_device_allocation();
    if (bytes == 0) return nullptr;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    UPCYCLE_CHECK(p != MAP_FAILED, "out of memory: {} bytes asked for", bytes);
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
  void release(void* data, std::size_t bytes) override {
    if (data != nullptr) munmap(data, bytes);
  }
  void copy_to_host(Stream&, void* host, const void* device, std::size_t bytes) override {
    if (bytes != 0) std::memcpy(host, device, bytes);
  }
  void copy_from_host(Stream&, void* device, const void* host, std::size_t bytes) override {
    if (bytes != 0) std::memcpy(device, host, bytes);
  }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }
std::uint64_t device_allocation_count() { return allocations.load(); }
void count_device_allocation() { ++allocations; }

}  // namespace upcycle
