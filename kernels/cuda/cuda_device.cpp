#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/cuda_error.h"
#include "core/error.h"
#include "kernels/cuda/cuda_moments.h"

namespace upcycle {
namespace {

// A wait of the host, which polls what is attached to the stream: that may find that the work will never be done.
class HostWait {
 public:
  void attach(Progress& progress) { attached_.push_back(&progress); }
  void detach(Progress& progress) { std::erase(attached_, &progress); }
  void poll() const {
    for (Progress* p : attached_) p->poll();
  }

  // query() is cudaSuccess once the work is done; synchronize() blocks until then.
  template <class Query, class Synchronize>
  cudaError_t wait(Query query, Synchronize synchronize) const {
    if (attached_.empty()) return synchronize();
    cudaError_t state = query();
    if (state != cudaErrorNotReady) return state;
    const Scope scope(attached_);
    while ((state = query()) == cudaErrorNotReady) {
      poll();
      std::this_thread::yield();
    }
    cudaGetLastError();  // clear cudaErrorNotReady
    return state;
  }

 private:
  struct Scope {
    explicit Scope(const std::vector<Progress*>& all_) : all(all_) {
      for (Progress* p : all) p->wait_begins();
    }
    ~Scope() {
      for (Progress* p : all) p->wait_ends();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    const std::vector<Progress*>& all;
  };
  std::vector<Progress*> attached_;
};

// The events that a stream has recorded, in a ring: ticket t is events[t % size]. An overwritten event precedes the one
// that replaced it in the same stream, so waiting for the later one covers it.
class CudaEvents final : public Progress {
 public:
  explicit CudaEvents(int device) : device_(device) {
    for (cudaEvent_t& e : events_) UPCYCLE_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
  }
  ~CudaEvents() override {
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
  }
  CudaEvents(const CudaEvents&) = delete;
  CudaEvents& operator=(const CudaEvents&) = delete;

  std::uint64_t record(cudaStream_t stream) {
    const std::uint64_t ticket = recorded_++;
    UPCYCLE_CUDA(cudaEventRecord(at(ticket), stream));
    return ticket;
  }
  cudaEvent_t at(std::uint64_t ticket) const { return events_[ticket % events_.size()]; }

  void poll() override {}
  void finish(std::uint64_t ticket) override {
    UPCYCLE_CUDA(cudaSetDevice(device_));
    UPCYCLE_CUDA(
        host_wait.wait([&] { return cudaEventQuery(at(ticket)); }, [&] { return cudaEventSynchronize(at(ticket)); }));
  }

  HostWait host_wait;  // the stream's

 private:
  int device_;
  std::uint64_t recorded_ = 0;
  std::array<cudaEvent_t, 64> events_{};
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(int device) : events_(std::make_shared<CudaEvents>(device)) {
    UPCYCLE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~CudaStream() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  Event record() override { return {events_, events_->record(stream_)}; }
  void wait(const Event& event) override {
    if (event.work == nullptr || event.work == events_) return;  // reached, or ordered by this stream itself
    if (const auto* cuda = dynamic_cast<const CudaEvents*>(event.work.get()))
      UPCYCLE_CUDA(cudaStreamWaitEvent(stream_, cuda->at(event.ticket), 0));
    else
      event.work->finish(event.ticket);
  }
  void synchronize() override {
    UPCYCLE_CUDA(events_->host_wait.wait([this] { return cudaStreamQuery(stream_); },
                                         [this] { return cudaStreamSynchronize(stream_); }));
  }
  void* native() override { return stream_; }

  void attach(Progress& progress) override { events_->host_wait.attach(progress); }
  void detach(Progress& progress) override { events_->host_wait.detach(progress); }
  void poll() override { events_->host_wait.poll(); }

 private:
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<CudaEvents> events_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);  // if it fails, count is meaningless
    if (found != cudaSuccess)
      throw InputError(fmt::format("--device=cuda: found no CUDA device: {}", cudaGetErrorString(found)));
    if (index < 0 || index >= count)
      throw InputError(fmt::format("--device=cuda: there is no CUDA device {}; this host has {}", index, count));
    UPCYCLE_CUDA(cudaSetDevice(index));
  }

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  std::unique_ptr<Stream> make_stream() override {
    UPCYCLE_CUDA(cudaSetDevice(index_));
    return std::make_unique<CudaStream>(index_);
  }

  std::unique_ptr<Moments> make_moments() override { return make_cuda_moments(index_); }

  void* allocate(std::size_t bytes) override {
    count_device_allocation();
    if (bytes == 0) return nullptr;
    UPCYCLE_CUDA(cudaSetDevice(index_));
    void* p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes);
    UPCYCLE_CHECK(error == cudaSuccess, "out of GPU memory: {} bytes asked for ({})", bytes, cudaGetErrorString(error));
    // Our streams do not wait for the default stream, which clears the memory, so the host does.
    UPCYCLE_CUDA(cudaMemset(p, 0, bytes));
    UPCYCLE_CUDA(cudaStreamSynchronize(nullptr));
    return p;
  }
  void release(void* data, std::size_t) override {
    if (data != nullptr) cudaFree(data);
  }
  void* allocate_host(std::size_t bytes) override {
    count_device_allocation();
    if (bytes == 0) return nullptr;
    UPCYCLE_CUDA(cudaSetDevice(index_));
    void* p = nullptr;
    const cudaError_t error = cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
    UPCYCLE_CHECK(error == cudaSuccess, "out of pinned memory: {} bytes asked for ({})", bytes,
                  cudaGetErrorString(error));
    std::memset(p, 0, bytes);
    return p;
  }
  void release_host(void* data, std::size_t) override {
    if (data != nullptr) cudaFreeHost(data);
  }
  void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) override {
    if (runs.bytes == 0 || runs.rows == 0 || to == from) return;
    constexpr cudaMemcpyKind kinds[] = {cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToDevice};
    const cudaMemcpyKind way = kinds[static_cast<int>(kind)];
    const auto native = static_cast<cudaStream_t>(stream.native());
    if (runs.rows == 1)
      UPCYCLE_CUDA(cudaMemcpyAsync(to, from, runs.bytes, way, native));
    else
      UPCYCLE_CUDA(cudaMemcpy2DAsync(to, runs.to_pitch, from, runs.from_pitch, runs.bytes, runs.rows, way, native));
  }

 private:
  int index_;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int index) { return std::make_unique<CudaDevice>(index); }

}  // namespace upcycle
