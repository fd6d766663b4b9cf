// The rest of the CUDA runtime: the device, errors, the modes from the environment.
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/cuda_host/emulation/runtime_internal.h"

namespace emul {
namespace {

[[noreturn]] void refuse(const char* name, const char* value, const char* known) {
  std::fprintf(stderr, "emul: %s=%s: known: %s\n", name, value, known);
  std::_Exit(2);
}
template <class T>
void number(const char* name, T& out) {
  const char* value = std::getenv(name);
  if (!value) return;
  const char* end = value + std::strlen(value);
  const auto [at, error] = std::from_chars(value, end, out);
  if (error != std::errc() || at != end) refuse(name, value, "a number");
}

Options from_environment() {
  Options o;
  if (std::getenv("UPCYCLE_EMUL_SEED")) o.order = Order::random;
  number("UPCYCLE_EMUL_SEED", o.seed);
  number("UPCYCLE_EMUL_THREADS", o.os_threads);
  if (const char* v = std::getenv("UPCYCLE_EMUL_ORDER")) {
    const std::string order = v;
    if (order == "forward")
      o.order = Order::forward;
    else if (order == "reverse")
      o.order = Order::reverse;
    else if (order == "random")
      o.order = Order::random;
    else
      refuse("UPCYCLE_EMUL_ORDER", v, "forward, reverse, random");
  }
  if (const char* v = std::getenv("UPCYCLE_EMUL_STREAMS")) {
    o.deferred = std::strcmp(v, "deferred") == 0;
    if (!o.deferred && std::strcmp(v, "eager") != 0) refuse("UPCYCLE_EMUL_STREAMS", v, "eager, deferred");
  }
  if (const char* v = std::getenv("UPCYCLE_EMUL_DEVICES"); v && std::strcmp(v, "no_driver") == 0)
    o.devices = -1;
  else
    number("UPCYCLE_EMUL_DEVICES", o.devices);
  number("UPCYCLE_EMUL_CAPABILITY", o.capability);
  number("UPCYCLE_EMUL_MEMORY", o.memory);
  return o;
}

cudaError_t last_error = cudaSuccess, sticky_error = cudaSuccess;
int device = 0;

cudaError_t no_device() { return keep(options().devices < 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice); }

}  // namespace

Options& options() {
  static Options o = from_environment();
  return o;
}
Counters& counters() {
  static Counters c;
  return c;
}
int current_device() { return device; }

cudaError_t fail(cudaError_t e, const char* what) {
  if (!options().quiet) std::fprintf(stderr, "emul: %s: %s\n", what, cudaGetErrorName(e));
  last_message() = what;
  return keep(e);
}
cudaError_t keep(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}
void set_sticky(cudaError_t e) { sticky_error = last_error = e; }
cudaError_t sticky() { return sticky_error; }

}  // namespace emul

using namespace emul;
extern "C" {
cudaError_t cudaGetDeviceCount(int* n) {  // where it fails, n is left as it was
  if (options().devices <= 0) return no_device();
  *n = options().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
  if (options().devices <= 0) return no_device();
  if (d < 0 || d >= options().devices) return fail(cudaErrorInvalidDevice, "cudaSetDevice");
  device = d;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* d) {
  if (options().devices <= 0) return no_device();
  *d = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int d) {
  if (bytes < 13 || d < 0 || d >= options().devices) return keep(cudaErrorInvalidValue);
  std::snprintf(id, static_cast<std::size_t>(bytes), "0000:%02X:00.0", static_cast<unsigned>(d + 1) & 0xffu);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  if (d < 0 || d >= options().devices) return keep(cudaErrorInvalidDevice);
  *p = {};
  std::strcpy(p->name, "CUDA emulation on the CPU");
  p->major = options().capability / 10;
  p->minor = options().capability % 10;
  p->warpSize = 32;
  p->multiProcessorCount = 3;  // odd on purpose
  std::size_t free_bytes = 0;
  cudaMemGetInfo(&free_bytes, &p->totalGlobalMem);
  p->sharedMemPerBlock = 48 * 1024;
  p->sharedMemPerBlockOptin = 227 * 1024;
  p->sharedMemPerMultiprocessor = 228 * 1024;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerBlock = 65536;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->l2CacheSize = 1 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int d) {
  if (d < 0 || d >= options().devices) return keep(cudaErrorInvalidDevice);
  switch (a) {
    case cudaDevAttrMultiProcessorCount:
      *v = 3;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *v = options().capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *v = options().capability % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *v = 227 * 1024;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *v = 1024;
      break;
    case cudaDevAttrWarpSize:
      *v = 32;
      break;
    default:
      return fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute: not emulated");
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* v) {
  *v = options().devices < 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaProfilerStart() {
  ++counters().profiler_starts;
  if (std::getenv("UPCYCLE_EMUL_SAY_PROFILER")) std::fputs("emul: cudaProfilerStart\n", stderr);
  return cudaSuccess;
}
cudaError_t cudaProfilerStop() {
  ++counters().profiler_stops;
  if (std::getenv("UPCYCLE_EMUL_SAY_PROFILER")) std::fputs("emul: cudaProfilerStop\n", stderr);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t e = last_error;
  last_error = sticky_error;
  return e;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidPitchValue:
      return "cudaErrorInvalidPitchValue";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaError(other)";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return cudaGetErrorName(e);
  }
}
}  // extern "C"
