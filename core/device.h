#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace upcycle {

enum class DeviceKind : std::uint8_t { Cpu, Cuda };

// Work under way that a stream's ops do not include: on the CPU, a communicator's transfers.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void poll() = 0;                        // advances the work as far as possible; never blocks
  virtual void finish(std::uint64_t ticket) = 0;  // blocks the host until the work with this ticket is done
  // Called before and after the host waits for a stream's work while polling this.
  virtual void wait_begins() {}
  virtual void wait_ends() {}
};

// A point in the work of a stream or a communicator. CPU ops are done when the call returns, so on the CPU only a
// transfer's event can be pending. Waiting more than once is allowed. Copies are cheap and allocate nothing.
struct Event {
  std::shared_ptr<Progress> work;  // null: reached
  std::uint64_t ticket = 0;
};

// Blocks the host until the event is reached.
inline void finish(const Event& event) {
  if (event.work != nullptr) event.work->finish(event.ticket);
}

// An ordered queue of device work. CPU streams are synchronous: an op has finished when its call returns.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual DeviceKind kind() const = 0;
  virtual Event record() = 0;
  virtual void wait(const Event& event) = 0;  // later work of this stream starts after `event`
  // Blocks the host until all ops are done. Inside a step it is called only where the host needs a number: each layer's
  // expert counts, and what the step reports.
  virtual void synchronize() = 0;
  virtual void* native() = 0;  // cudaStream_t, or null

  // CPU transfers advance only while something calls into their library. So a communicator attaches itself, and CPU ops
  // call poll() between pieces of long work (MPI's own progress thread would take a core). On CUDA transfers advance by
  // themselves, but may fail or hang: there, host waits poll what is attached.
  virtual void attach(Progress& progress) = 0;
  virtual void detach(Progress& progress) = 0;
  virtual void poll() = 0;
};

// Moments in the work of a device's streams, for profiles.
class Moments {
 public:
  virtual ~Moments() = default;
  // When the work that `stream` has been given so far is done; its number, from 0.
  virtual std::size_t record(Stream& stream) = 0;
  // Seconds from the first moment to each. Blocks until all have come.
  virtual std::vector<double> seconds() = 0;
};

// What a copy moves: `rows` runs of `bytes` each, which start `to_pitch` and `from_pitch` bytes apart.
struct Runs {
  std::size_t bytes = 0, rows = 1, to_pitch = 0, from_pitch = 0;
  Runs(std::size_t one_run) : bytes(one_run) {}  // NOLINT: implicit, so that a copy can be given a byte count
  Runs(std::size_t bytes_, std::size_t rows_, std::size_t to_pitch_, std::size_t from_pitch_)
      : bytes(bytes_), rows(rows_), to_pitch(to_pitch_), from_pitch(from_pitch_) {}
};
enum class CopyKind : std::uint8_t { ToHost, FromHost, OnDevice };

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  // Null where streams are synchronous: the host's clock serves.
  virtual std::unique_ptr<Moments> make_moments() { return nullptr; }
  // Zeroed, aligned to 256 bytes at least (Arena::kAlignment); throws Error when out of memory.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) = 0;
  // The same for host memory that copies reach directly (pinned on CUDA: copies to and from other host memory are not
  // asynchronous).
  virtual void* allocate_host(std::size_t bytes);
  virtual void release_host(void* data, std::size_t bytes);

  // In stream order. Host memory may be read, or reused, once the stream is synchronized. Source and destination must
  // not overlap, but may be identical.
  virtual void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) = 0;
  void copy_to_host(Stream& stream, void* host, const void* device, const Runs& runs) {
    copy(stream, CopyKind::ToHost, host, device, runs);
  }
  void copy_from_host(Stream& stream, void* device, const void* host, const Runs& runs) {
    copy(stream, CopyKind::FromHost, device, host, runs);
  }
};

std::unique_ptr<Device> make_cpu_device();
void copy_host_runs(void* to, const void* from, const Runs& runs);

// Allocations made through any Device of this process so far, for the test that a training step makes none.
std::uint64_t device_allocation_count();
void count_device_allocation();

}  // namespace upcycle
