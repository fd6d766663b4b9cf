#include "launch/backend.h"

#include <sstream>
#include <vector>

#include "core/check.h"
#include "core/config/fields.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "core/log.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda_scratch.h"
#include "kernels/dry/traced_ops.h"
#include "launch/gpu_facts.h"
#include "parallel/comm/agree.h"

namespace upcycle {
namespace {

Backend make_cpu_backend() {
  Backend b;
  b.device = make_cpu_device();
  b.stream = b.device->make_stream();
  b.ops = make_cpu_ops();
  return b;
}

#ifdef UPCYCLE_HAS_CUDA
// A rank's host (MpiSession::first_on_host) and GPU.
struct Place {
  int host = 0;
  std::string gpu;
};
std::vector<Place> gather_places(Communicator& ranks, int host, const std::string& gpu) {
  std::istringstream in(ranks.gather_text(fmt::format("{} {}\n", host, gpu)));
  std::vector<Place> places;
  for (Place p; in >> p.host >> p.gpu;) places.push_back(p);
  UPCYCLE_CHECK(static_cast<int>(places.size()) == ranks.size(), "{} of {} ranks said where they are", places.size(),
                ranks.size());
  return places;
}

int count_gpus_for(const std::string& where, const char* key) {
  try {
    return cuda::count_gpus();
  } catch (const InputError& e) {
    field_error(where, key, "cuda", fmt::format("cpu: there is no GPU to compute on ({})", e.what()),
                "start where a GPU and its driver are, or use --device=cpu");
  }
}

// The kernels are built for compute capability 9.0 (H100) and later: on an older GPU none of them would start.
void check_capability(int gpu, const std::string& where, const char* key) {
  constexpr int least = 90;
  const int found = cuda::capability(gpu);
  if (found < least)
    field_error(where, key, fmt::format("cuda on GPU {} of compute capability {}.{}", gpu, found / 10, found % 10),
                fmt::format("at least {}.{}", least / 10, least % 10), "use an H100 or a later GPU, or --device=cpu");
}

// Ranks that share a GPU would each plan for all of its memory, and NCCL refuses them.
void check_own_gpu(const std::vector<Place>& places, const MpiSession& session, int seen, const std::string& where) {
  const int rank = session.rank();
  const Place& mine = places[static_cast<std::size_t>(rank)];
  int other = -1;
  for (int r = static_cast<int>(places.size()) - 1; r >= 0; --r) {
    const Place& p = places[static_cast<std::size_t>(r)];
    if (r < rank && p.host == mine.host && p.gpu == mine.gpu) other = r;
  }
  if (other < 0) return;
  field_error(
      where, "device", fmt::format("cuda with {} ranks on {}", session.ranks_on_host(), session.host()),
      fmt::format("a GPU for each: rank {} sees {} and would share {} with rank {}", rank, seen, mine.gpu, other),
      "start fewer ranks on a host, or let each see another GPU (CUDA_VISIBLE_DEVICES, srun --gpus-per-task)");
}
#else
[[noreturn]] void refuse_cuda(const std::string& where, const char* key) {
  field_error(where, key, "cuda", "cpu",
              "this build has no CUDA backend: use --device=cpu, or a build with the preset cuda");
}
#endif

Backend make_untraced(const MpiSession& session, const Config& config) {
  if (config.device == "cpu") {
    Backend b = make_cpu_backend();
    b.ranks_on_host = session.ranks_on_host();
    return b;
  }
  const std::string where = config.where("device");
  const auto stream = make_cpu_device()->make_stream();
  const auto ranks = make_start_group(session, *stream);
#ifdef UPCYCLE_HAS_CUDA
  int seen = 0, gpu = 0;
  agree_or_throw(*ranks, [&] {
    seen = count_gpus_for(where, "device");
    gpu = session.local_rank() % seen;
    check_capability(gpu, where, "device");
  });
  const std::string address = cuda::gpu_address(gpu);
  const std::vector<Place> places = gather_places(*ranks, session.first_on_host(), address);
  agree_or_throw(*ranks, [&] { check_own_gpu(places, session, seen, where); });
  log_info("rank {} computes on GPU {} ({}) of the {} that it sees", session.rank(), gpu, address, seen);
  Backend b = cuda::make_backend(gpu);
  b.host_ops = make_cpu_ops();
  b.ranks_on_host = session.ranks_on_host();
  return b;
#else
  agree_or_throw(*ranks, [&] { refuse_cuda(where, "device"); });
  throw_error(__FILE__, __LINE__, __func__, "agreed on a refusal, and went on");
#endif
}

}  // namespace

Backend make_backend(const MpiSession& session, const Config& config) {
  Backend b = make_untraced(session, config);
  if (config.train.profile_trace.empty()) return b;
  b.ops = make_traced_ops(b.ops);
  if (b.host_ops != nullptr) b.host_ops = make_traced_ops(b.host_ops);
  return b;
}

void check_backend_is_built(const Config& config) {
#ifndef UPCYCLE_HAS_CUDA
  if (config.device == "cuda") refuse_cuda(config.where("device"), "device");
#else
  (void)config;
#endif
}

std::function<std::size_t(const OpLimits&)> workspace_of(const Config& config) {
  return config.device == "cpu" ? CpuOps::most_workspace : cuda::scratch::most_bytes;
}

Mesh make_backend_mesh(const Backend& backend, const MpiSession& session, const Layout& layout) {
#ifdef UPCYCLE_HAS_CUDA
  if (backend.gpu >= 0) return cuda::make_mesh(backend, session, layout);
#endif
  return make_mesh(session, layout, *backend.stream);
}

std::size_t memory_of(const Backend& backend) {
#ifdef UPCYCLE_HAS_CUDA
  if (backend.gpu >= 0) return cuda::free_memory(backend.gpu);
#endif
  (void)backend;
  return host_memory().free;
}

std::size_t memory_used(const Backend& backend) {
#ifdef UPCYCLE_HAS_CUDA
  if (backend.gpu >= 0) return cuda::used_memory(backend.gpu);
#endif
  (void)backend;
  return resident_memory();
}

std::string gpu_facts(const Backend& backend) {
#ifdef UPCYCLE_HAS_CUDA
  return backend.gpu >= 0 ? cuda::gpu_facts(backend.gpu) : "no GPU in use";
#else
  (void)backend;
  return "a build without the CUDA backend";
#endif
}

void set_profiling(const Backend& backend, bool on) {
#ifdef UPCYCLE_HAS_CUDA
  if (backend.gpu >= 0) cuda::set_profiling(on);
#endif
  (void)backend, (void)on;
}

}  // namespace upcycle
