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

// What a command computes with, on one rank. It outlives all that was made of it.
struct Backend {
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
  std::shared_ptr<Ops> ops;
  int gpu = -1;           // its index among the GPUs that this process sees; -1: the CPU
  int ranks_on_host = 1;  // that share this host's memory
};

// Of a command of one rank, for the value of its option --device: cpu or cuda, else InputError; so it is where this
// build has no CUDA backend or CUDA finds no GPU.
Backend make_backend(const std::string& device);

// Of every rank, for config.device. Each rank of a host takes a GPU of its own: the one with its number among the
// host's ranks, counted over those that it sees (CUDA_VISIBLE_DEVICES, or what SLURM bound to it). A collective call;
// throws AgreedError where the build, a driver or GPUs are missing, naming the field and the first rank without.
Backend make_backend(const MpiSession& session, const Config& config);

// What the ops of config.device ask for as scratch, for a plan: no GPU has to be there, but the backend has to be in
// this build (InputError).
std::function<std::size_t(const OpLimits&)> workspace_of(const Config& config);

// Communicators for the backend's memory: MPI, or NCCL. A collective call.
Mesh make_backend_mesh(const Backend& backend, const MpiSession& session, const Layout& layout);

std::size_t memory_of(const Backend& backend);  // bytes that are free for arenas, on the machine or on the GPU

// The window that nsys and ncu record where they were told to wait for it (cudaProfilerStart); on the CPU nothing.
void set_profiling(const Backend& backend, bool on);

// In launch/cuda/backend.cpp, which only builds with CUDA have.
namespace cuda {
int count_gpus();                  // that this process sees; InputError with CUDA's reason where there are none
std::string gpu_address(int gpu);  // on the PCI bus: the same in every process of a host
int capability(int gpu);           // compute capability: 90 is 9.0
std::size_t free_memory(int gpu);  // bytes
void set_profiling(bool on);
std::size_t scratch_bytes(const OpLimits& limits);  // of the ops; needs no GPU
Backend make_backend(int gpu);
Mesh make_mesh(const Backend& backend, const MpiSession& session, const Layout& layout);
}  // namespace cuda

}  // namespace upcycle
