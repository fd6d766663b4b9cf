#pragma once
#include "kernels/cuda/cuda_device.h"
#include "parallel/comm/comm_nccl.h"
#include "tests/comm/inputs.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

// This rank's GPU and the stream that stands for its ops.
struct Gpu {
  std::unique_ptr<Device> device = make_cuda_device(mpi_session().local_rank());
  std::unique_ptr<Stream> stream = device->make_stream();

  Mesh mesh(int tp = 1, int ep = 1, int etp = 1) const {
    return make_nccl_mesh(mpi_session(), make_layout(mpi_session().size(), tp, ep, etp), *device, *stream);
  }
  // A copy between two of its tensors, in the order of its ops.
  void copy(const Tensor& to, const Tensor& from) const {
    device->copy(*stream, CopyKind::OnDevice, to.data, from.data, from.bytes());
  }
};

// A Buffer's twin in device memory. The host's is what upload() writes and download() reads, both in the stream's
// order.
class DeviceBuffer {
 public:
  DeviceBuffer(const Gpu& gpu, const Buffer& from) : gpu_(gpu), shape_(from), bytes_(from.bytes.size()) {
    data_ = gpu_.device->allocate(bytes_);
    gpu_.device->copy_from_host(*gpu_.stream, data_, from.bytes.data(), bytes_);
    gpu_.stream->synchronize();
  }
  ~DeviceBuffer() { gpu_.device->release(data_, bytes_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  Tensor tensor() const { return Tensor(data_, shape_.dtype, {shape_.size}); }
  Tensor tensor(std::int64_t rows, std::int64_t columns) const { return Tensor(data_, shape_.dtype, {rows, columns}); }
  Buffer download() const {
    Buffer b = shape_;
    gpu_.device->copy_to_host(*gpu_.stream, b.bytes.data(), data_, bytes_);
    gpu_.stream->synchronize();
    return b;
  }

 private:
  const Gpu& gpu_;
  Buffer shape_;
  std::size_t bytes_;
  void* data_;
};

// How the emulated GPU runs its streams.
struct Mode {
  bool deferred;
  std::uint64_t seed;
};
inline const Mode kModes[] = {{false, 1}, {true, 1}, {true, 2}, {true, 3}};
inline void enter(const Mode& mode) {
  emul::options().deferred = mode.deferred;
  emul::reseed(mode.seed);
}

}  // namespace upcycle::test
