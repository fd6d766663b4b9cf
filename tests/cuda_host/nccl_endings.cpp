#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

#include "kernels/cuda/cuda_device.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/comm_nccl.h"
#include "tests/cuda_host/emulation/nccl_operation.h"

// How a job on GPUs ends when an NCCL operation never does (mpi_endings.cpp, over NCCL).
using namespace upcycle;

namespace {

std::string_view mode;

[[noreturn]] void never_return() {
  for (;;) pause();
}

// Every rank of the world waits for a sum over it, as the mode has it: of all but the last element of `all`.
void wait_too_long(const MpiSession& session, const Mesh& mesh, const Tensor& all, Stream& stream) {
  const int rank = session.rank(), last = session.size() - 1;
  const Tensor data = all.slice_rows(0, all.size() - 1);
  if (mode == "late_first_call" || mode == "inside") {
    session.set_timeout(2);
    stream.wait(mesh.world->all_gather(data.slice_rows(0, session.size()), data.slice_rows(rank, rank + 1)));
    if (rank == last && mode == "inside") mesh.world->barrier();  // where a first call waits for all to come
    if (rank == last) never_return();
  }
  stream.wait(mesh.world->all_reduce(data));
  stream.synchronize();
  mesh.world->barrier();
  session.set_timeout(2);
  if ((mode == "late_last" && rank == last) || (mode == "late_first" && rank == 0) ||
      (mode == "late_middle" && rank == 1))
    never_return();
  if (mode == "late_on_host" && rank == last) mesh.world->barrier();  // the others are in a transfer
  if (mode == "failed" && rank == last) emul::fail_next_nccl_operation(ncclRemoteError);
  if (mode == "other_group" && rank == last) {
    stream.wait(mesh.dp->all_reduce(data));
    stream.synchronize();
  }
  if (mode == "host_stands" && rank == last) never_return();
  const Tensor part = mode == "other_count" && rank == last ? all : data;
  stream.wait(mesh.world->all_reduce(part));
  if (mode == "host_stands") never_return();  // as in a launch that waits for room in the GPU's queue
  stream.synchronize();
}

int run(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  emul::options().deferred = true;
  const auto cpu = make_cpu_device();
  const auto cpu_stream = cpu->make_stream();
  std::unique_ptr<Device> device;
  if (mode == "no_device") emul::options().devices = session.size() - 1;
  try {
    agree_or_throw(*make_start_group(session, *cpu_stream), [&] { device = make_cuda_device(session.local_rank()); });
  } catch (const AgreedError& e) {
    if (session.rank() == 0) std::printf("%s\n", e.what());
    return 2;
  }
  const auto stream = device->make_stream();
  const Mesh mesh = make_nccl_mesh(session, make_layout(session.size(), 1, 1, 1), *device, *stream);
  const Tensor data(device->allocate(20), DType::F32, {5});
  wait_too_long(session, mesh, data, *stream);
  if (mode != "finish") return 98;
  if (session.rank() == 0) std::printf("all %d came\n", session.size());
  device->release(data.data, 20);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 97;
  mode = argv[1];
  alarm(mode == "host_stands" ? 90 : 50);
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 5;
  }
}
