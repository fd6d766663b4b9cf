#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/cuda_host/planted/kernels.h"

// Mistakes that the emulation has to notice: planted NAME runs one in the mode of the environment and exits 0 where
// nothing is noticed (the result is right, and the same in every order); planted --list prints the names.
namespace upcycle::planted {
namespace {

constexpr std::size_t kCount = 512, kBytes = kCount * sizeof(float);

[[noreturn]] void noticed(const std::string& what) {
  std::printf("%s\n", what.c_str());
  std::fflush(stdout);
  std::_Exit(3);
}
void check(cudaError_t e) {
  if (e != cudaSuccess) noticed(emul::last_message().empty() ? cudaGetErrorName(e) : emul::last_message());
}

struct Gpu {
  float *in = nullptr, *out = nullptr, *pinned = nullptr;
  cudaStream_t first{}, second{};
  cudaEvent_t event{};
  Gpu() {
    check(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    check(cudaMalloc(reinterpret_cast<void**>(&in), kBytes));
    check(cudaMalloc(reinterpret_cast<void**>(&out), kBytes));
    check(cudaHostAlloc(reinterpret_cast<void**>(&pinned), kBytes, cudaHostAllocDefault));
    std::vector<float> values(kCount);
    for (std::size_t i = 0; i < kCount; ++i) values[i] = static_cast<float>(i * i % 251) + 0.25f;
    check(cudaMemcpy(in, values.data(), kBytes, cudaMemcpyHostToDevice));
    check(cudaMemset(out, 0, kBytes));
    check(cudaDeviceSynchronize());
  }
  std::vector<float> read(const float* from) {
    check(cudaDeviceSynchronize());
    std::vector<float> values(kCount);
    check(cudaMemcpy(values.data(), from, kBytes, cudaMemcpyDeviceToHost));
    return values;
  }
};

std::vector<float> run_kernel(Kernel kernel, unsigned blocks = 1, const float* in = nullptr) {
  Gpu gpu;
  check(gpu::launch({dim3(blocks), dim3(256), 0, gpu.first}, kernel, gpu.out, in ? in : gpu.in));
  return gpu.read(gpu.out);
}
using Bug = std::function<std::vector<float>()>;
Bug kernel(Kernel k, unsigned blocks = 1) {
  return [=] { return run_kernel(k, blocks); };
}

std::vector<float> host_pointer() {
  static float on_the_host[kCount] = {};
  return run_kernel(correct, 1, on_the_host);
}
std::vector<float> host_reads_device() {
  Gpu gpu;
  return {*static_cast<volatile float*>(gpu.in)};
}
std::vector<float> used_after_free() {
  Gpu gpu;
  check(cudaFree(gpu.in));
  check(gpu::launch({dim3(1), dim3(256), 0, gpu.first}, correct, gpu.out, static_cast<const float*>(gpu.in)));
  return gpu.read(gpu.out);
}
enum class Wait { none, too_early, right };
std::vector<float> two_streams(Wait wait) {
  Gpu gpu;
  float* between = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&between), kBytes));
  check(cudaMemset(between, 0, kBytes));
  check(cudaDeviceSynchronize());
  if (wait == Wait::too_early) check(cudaEventRecord(gpu.event, gpu.first));
  check(gpu::launch({dim3(1), dim3(256), 0, gpu.first}, correct, between, static_cast<const float*>(gpu.in)));
  if (wait == Wait::right) check(cudaEventRecord(gpu.event, gpu.first));
  if (wait != Wait::none) check(cudaStreamWaitEvent(gpu.second, gpu.event, 0));
  check(gpu::launch({dim3(1), dim3(256), 0, gpu.second}, correct, gpu.out, static_cast<const float*>(between)));
  return gpu.read(gpu.out);
}
// The same memory for the next piece while the stream that reads the last has not come to it.
std::vector<float> overwritten_too_early() {
  Gpu gpu;
  check(gpu::launch({dim3(1), dim3(256), 0, gpu.first}, correct, gpu.out, static_cast<const float*>(gpu.in)));
  check(cudaMemsetAsync(gpu.in, 0, kBytes, gpu.second));
  return gpu.read(gpu.out);
}
std::vector<float> pinned_read(bool wait) {
  Gpu gpu;
  check(cudaMemcpyAsync(gpu.pinned, gpu.in, kBytes, cudaMemcpyDeviceToHost, gpu.first));
  if (wait) check(cudaStreamSynchronize(gpu.first));
  return {gpu.pinned, gpu.pinned + kCount};
}
std::vector<float> pinned_refilled() {
  Gpu gpu;
  std::fill_n(gpu.pinned, kCount, 1.f);
  check(cudaMemcpyAsync(gpu.out, gpu.pinned, kBytes, cudaMemcpyHostToDevice, gpu.first));
  std::fill_n(gpu.pinned, kCount, 2.f);
  return gpu.read(gpu.out);
}
std::vector<float> pinned_freed() {
  Gpu gpu;
  std::fill_n(gpu.pinned, kCount, 1.f);
  check(cudaMemcpyAsync(gpu.out, gpu.pinned, kBytes, cudaMemcpyHostToDevice, gpu.first));
  check(cudaFreeHost(gpu.pinned));
  return gpu.read(gpu.out);
}
std::vector<float> event_without_record() {
  Gpu gpu;
  check(cudaMemcpyAsync(gpu.pinned, gpu.in, kBytes, cudaMemcpyDeviceToHost, gpu.first));
  check(cudaEventSynchronize(gpu.event));  // an event that was never recorded has been reached
  return {gpu.pinned, gpu.pinned + kCount};
}

const std::vector<std::pair<std::string, Bug>>& bugs() {
  static const std::vector<std::pair<std::string, Bug>> all = {
      {"none", kernel(correct)},
      {"none_async_copy", kernel(async_copy<true, true, true>)},
      {"none_two_streams", [] { return two_streams(Wait::right); }},
      {"none_pinned", [] { return pinned_read(true); }},
      {"missing_sync", kernel(missing_sync)},
      {"missing_sync_before_reuse", kernel(missing_sync_before_reuse)},
      {"missing_syncwarp", kernel(missing_syncwarp)},
      {"shared_out_of_bounds", kernel(shared_out_of_bounds)},
      {"shared_row_out_of_bounds", kernel(shared_row_out_of_bounds)},
      {"global_out_of_bounds", kernel(global_out_of_bounds)},
      {"divergent_barrier", kernel(divergent_barrier)},
      {"mask_of_absent_lanes", kernel(mask_of_absent_lanes)},
      {"barrier_after_exit", kernel(barrier_after_exit)},
      {"uninitialised_shared", kernel(uninitialised_shared)},
      {"plain_add_to_global", kernel(plain_add_to_global)},
      {"misaligned_vector", kernel(misaligned_vector)},
      {"order_of_atomics", kernel(order_of_atomics)},
      {"block_reads_block", kernel(block_reads_block, 2)},
      {"async_copy_without_commit", kernel(async_copy<false, true, true>)},
      {"async_copy_without_wait", kernel(async_copy<true, false, true>)},
      {"async_copy_without_sync", kernel(async_copy<true, true, false>)},
      {"host_pointer", host_pointer},
      {"host_reads_device", host_reads_device},
      {"used_after_free", used_after_free},
      {"missing_event_wait", [] { return two_streams(Wait::none); }},
      {"event_recorded_too_early", [] { return two_streams(Wait::too_early); }},
      {"overwritten_too_early", overwritten_too_early},
      {"pinned_read_too_early", [] { return pinned_read(false); }},
      {"pinned_refilled_too_early", pinned_refilled},
      {"pinned_freed_too_early", pinned_freed},
      {"event_without_record", event_without_record},
  };
  return all;
}

// Eager streams in the plain order give the result that every other run must give.
int run(const Bug& bug) {
  emul::Options mode = emul::options();
  std::vector<float> want;
  for (const auto& [order, seed] : {std::pair<emul::Order, std::uint64_t>{emul::Order::forward, mode.seed},
                                    {emul::Order::forward, mode.seed},
                                    {emul::Order::reverse, mode.seed},
                                    {emul::Order::random, mode.seed},
                                    {emul::Order::random, mode.seed + 1},
                                    {emul::Order::random, mode.seed + 2},
                                    {emul::Order::random, mode.seed + 3}}) {
    emul::options().deferred = mode.deferred && !want.empty();
    emul::options().order = order;
    emul::reseed(seed);
    const std::vector<float> got = bug();
    if (std::any_of(got.begin(), got.end(), [](float x) { return std::isnan(x); })) noticed("NaN in the result");
    if (!want.empty() && std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) != 0)
      noticed("the result depends on the order");
    want = got;
  }
  return 0;
}

}  // namespace
}  // namespace upcycle::planted

int main(int argc, char** argv) {
  using upcycle::planted::bugs;
  const std::string name = argc == 2 ? argv[1] : "";
  for (const auto& [known, bug] : bugs()) {
    if (name == "--list") std::printf("%s\n", known.c_str());
    if (name == known) return upcycle::planted::run(bug);
  }
  if (name == "--list") return 0;
  std::fprintf(stderr, "planted: unknown mistake %s\n", name.c_str());
  return 2;
}
