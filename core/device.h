#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace upcycle {

enum class DeviceKind : std::uint8_t { Cpu, Cuda };

// Work under way that a stream's ops do not include: on the CPU, a communicator's transfers.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void poll() = 0;                        // moves what can move; never blocks
  virtual void finish(std::uint64_t ticket) = 0;  // blocks the host until the work with this ticket is done
};

// A point in a stream's work, or in a communicator's. CPU ops are done when they are issued, so only a transfer's event
// may still be ahead. Waiting more than once is allowed. Copies are cheap and allocate nothing.
struct Event {
  std::shared_ptr<Progress> work;  // null: reached
  std::uint64_t ticket = 0;
};

// An ordered queue of device work. CPU streams are synchronous: an op has finished when its call returns.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual DeviceKind kind() const = 0;
  virtual Event record() = 0;
  virtual void wait(const Event& event) = 0;  // later work of this stream starts after `event`
  // Blocks the host until all ops are done. Inside a step only where the host must know a number: a layer's expert
  // counts, and what the step reports.
  virtual void synchronize() = 0;
  virtual void* native() = 0;  // cudaStream_t, or null

  // Transfers on the CPU move only while somebody calls into their library. So whoever makes them attaches them, and
  // CPU ops call poll() between pieces of long work (MPI's own thread would take a core). On CUDA nothing is attached.
  virtual void attach(Progress& progress) = 0;
  virtual void detach(Progress& progress) = 0;
  virtual void poll() = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  // Zeroed, aligned to 64 bytes at least; throws Error when out of memory.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) = 0;
  // In the stream's order. Host memory may be read, or written again, once the stream is synchronized.
  virtual void copy_to_host(Stream& stream, void* host, const void* device, std::size_t bytes) = 0;
  virtual void copy_from_host(Stream& stream, void* device, const void* host, std::size_t bytes) = 0;
};

std::unique_ptr<Device> make_cpu_device();

// Allocations made through any Device of this process so far: the test that a step makes none reads it.
std::uint64_t device_allocation_count();
void count_device_allocation();

}  // namespace upcycle
