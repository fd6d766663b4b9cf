#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/config/config.h"
#include "core/device.h"
#include "kernels/op_types.h"
#include "parallel/comm/mesh.h"
#include "parallel/comm/mpi_session.h"

namespace upcycle {

class Ops;

// What a command computes with, on one rank. Must outlive everything that uses it.
struct Backend {
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
  std::shared_ptr<Ops> ops, host_ops = nullptr;  // host_ops: the CPU's, beside a GPU
  int gpu = -1;                                  // its index among the GPUs that this process sees; -1: the CPU
  int ranks_on_host = 1;                         // ranks that share this host's memory
};

// On every rank, from config.device. Each rank of a host takes its own GPU: its index among the host's ranks, modulo
// the GPUs that it sees (CUDA_VISIBLE_DEVICES, or those that SLURM bound to it). Collective; AgreedError if the build,
// a driver or GPUs are missing, naming the field and the first rank without.
Backend make_backend(const MpiSession& session, const Config& config);

// InputError if this build lacks the backend of config.device.
void check_backend_is_built(const Config& config);

// Scratch bytes that the ops of config.device need, for a plan: needs neither a GPU nor a build for it.
std::function<std::size_t(const OpLimits&)> workspace_of(const Config& config);

// Communicators for the backend's memory: MPI, or NCCL. Collective.
Mesh make_backend_mesh(const Backend& backend, const MpiSession& session, const Layout& layout);

std::size_t memory_of(const Backend& backend);    // bytes free for arenas, on the machine or the GPU
std::size_t memory_used(const Backend& backend);  // bytes resident of this process, or in use on the GPU, by whomever

// Starts or stops the recording of nsys and ncu, if told to wait for it (cudaProfilerStart); no effect on the CPU.
void set_profiling(const Backend& backend, bool on);

// Defined in launch/cuda/backend.cpp, which is compiled only with CUDA.
namespace cuda {
int count_gpus();                  // visible to this process; InputError with CUDA's reason if none
std::string gpu_address(int gpu);  // on the PCI bus: the same in every process of a host
int capability(int gpu);           // compute capability: 90 is 9.0
std::size_t free_memory(int gpu);  // bytes
std::size_t used_memory(int gpu);  // bytes
void set_profiling(bool on);
Backend make_backend(int gpu);
Mesh make_mesh(const Backend& backend, const MpiSession& session, const Layout& layout);
}  // namespace cuda

}  // namespace upcycle
