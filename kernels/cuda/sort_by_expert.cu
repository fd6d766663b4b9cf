#include <algorithm>

#include "kernels/check.h"
#include "kernels/checks/expert_rows.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

// A counting sort in three passes, with one warp per part of the assignments: each part is counted per expert; a prefix
// sum over an expert's parts turns the counts into first places (this order makes the sort stable); each part is
// placed. A stable order is unique, so the result does not depend on the number of parts.
//
// Not checked on the host, since the values are in device memory: an expert out of range or a row past the end of
// `source` is never written; its slot is -1.
namespace upcycle {
namespace {

using namespace cuda;

constexpr std::int64_t kPartFrom = 256;  // assignments
constexpr unsigned kThreads = 128;
constexpr int kWarps = kThreads / 32;

struct Part {
  int begin, end;
  int at;  // the part's index; `parts` on warps without a part
};
__device__ __forceinline__ Part part_of_warp(int n, int parts) {
  const int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const auto edge = [&](int i) { return static_cast<int>(static_cast<std::int64_t>(n) * i / parts); };
  return index < parts ? Part{edge(index), edge(index + 1), index} : Part{n, n, parts};
}

// The sum of the lanes up to this one.
__device__ __forceinline__ int warp_scan(int v, int lane) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const int before = __shfl_up_sync(kFullWarp, v, static_cast<unsigned>(o));
    if (lane >= o) v += before;
  }
  return v;
}

// place (E, parts) = number of assignments of each part to each expert; source = -1, for padding and unused rows.
__global__ void __launch_bounds__(kThreads)
    count_parts(int* place, int* source, const int* experts, int n, int E, int parts, int R) {
  GPU_DYN_SHARED(int, counts);  // (kWarps, E)
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* const mine = counts + static_cast<int>(threadIdx.x) / 32 * E;
  const Part part = part_of_warp(n, parts);
  for (int e = lane; e < E; e += 32) mine[e] = 0;
  __syncwarp();
  for (int i = part.begin + lane; i < part.end; i += 32) {
    const unsigned e = static_cast<unsigned>(experts[i]);
    if (e < static_cast<unsigned>(E)) atomicAdd(&mine[e], 1);  // integers: the order does not matter
  }
  __syncwarp();
  if (part.at != parts)
    for (int e = lane; e < E; e += 32) place[static_cast<std::int64_t>(e) * parts + part.at] = mine[e];
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; r < R; r += stride)
    source[r] = -1;
}

// One warp per expert: place (E, parts) = the expert's assignments in earlier parts; counts (E).
__global__ void __launch_bounds__(kThreads) scan_parts(int* place, int* counts, int E, int parts) {
  const int e = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (e >= E) return;
  int* const mine = place + static_cast<std::int64_t>(e) * parts;
  int before = 0;
  for (int base = 0; base < parts; base += 32) {
    const int part = base + lane, here = part < parts ? mine[part] : 0;
    const int sum = warp_scan(here, lane);
    if (part < parts) mine[part] = before + sum - here;
    before += __shfl_sync(kFullWarp, sum, 31);
  }
  if (lane == 0) counts[e] = before;
}

// Mask of the lanes with the same key; keys are below 2^bits.
__device__ __forceinline__ unsigned lanes_with(unsigned key, int bits) {
  unsigned same = kFullWarp;
  for (int b = 0; b < bits; ++b) {
    const unsigned set = __ballot_sync(kFullWarp, static_cast<int>(key >> b & 1));
    same &= key >> b & 1 ? set : ~set;
  }
  return same;
}

__global__ void __launch_bounds__(kThreads)
    place_parts(int* source, int* slot, const int* place, const int* counts, const int* experts, int n, int k, int E,
                int parts, int R, int align) {
  GPU_DYN_SHARED(int, first);  // (E) the first row of each segment, then (kWarps, E) the next free one of each warp
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp == 0) {
    int end = 0;
    for (int base = 0; base < E; base += 32) {
      const int e = base + lane;
      const int rows = e < E ? (counts[e] + align - 1) / align * align : 0;
      const int sum = warp_scan(rows, lane);
      if (e < E) first[e] = end + sum - rows;
      end += __shfl_sync(kFullWarp, sum, 31);
    }
  }
  __syncthreads();
  const Part part = part_of_warp(n, parts);
  if (part.at == parts) return;
  int* const next = first + (1 + warp) * E;
  for (int e = lane; e < E; e += 32) next[e] = first[e] + place[static_cast<std::int64_t>(e) * parts + part.at];
  __syncwarp();
  const int bits = 32 - __clz(E);
  for (int base = part.begin; base < part.end; base += 32) {
    const int i = base + lane;
    const bool inside = i < part.end;
    const unsigned e = inside ? static_cast<unsigned>(experts[i]) : static_cast<unsigned>(E);
    const bool valid = e < static_cast<unsigned>(E);
    const unsigned same = lanes_with(valid ? e : static_cast<unsigned>(E), bits);
    const int before = __popc(same & ((1u << lane) - 1));  // lower lanes hold earlier assignments
    const int row = valid ? next[e] + before : R;
    __syncwarp();
    if (valid && before == 0) next[e] += __popc(same);
    __syncwarp();
    if (row < R) source[row] = i / k;
    if (inside) slot[i] = row < R ? row : -1;
  }
}

}  // namespace

void CudaOps::sort_by_expert(Stream& stream, Workspace workspace, const Tensor& counts, const Tensor& source,
                             const Tensor& slot, const Tensor& experts, std::int64_t align) {
  const SortSizes z = check_sort_by_expert(counts, source, slot, experts, align);
  const std::int64_t E = z.E, k = z.k, R = z.R, n = z.T * k;
  check_experts("sort_by_expert", E);
  const std::int64_t parts = std::clamp<std::int64_t>(n / kPartFrom, 1, scratch::kSortParts);
  const std::size_t needed = static_cast<std::size_t>(parts * E) * sizeof(std::int32_t);
  check_workspace("sort_by_expert", workspace, needed);

  int *const place = static_cast<int*>(workspace.data), *const count = counts.as<std::int32_t>();
  int *const token = source.as<std::int32_t>(), *const row = slot.as<std::int32_t>();
  const int* const expert = experts.as<std::int32_t>();
  const auto number = [](std::int64_t x) { return static_cast<int>(x); };
  const auto blocks = [](std::int64_t warps) { return dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)); };
  const std::size_t row_bytes = static_cast<std::size_t>(E) * sizeof(int);
  UPCYCLE_CUDA(gpu::launch({blocks(parts), dim3(kThreads), kWarps * row_bytes, native(stream)}, count_parts, place,
                           token, expert, number(n), number(E), number(parts), number(R)));
  UPCYCLE_CUDA(
      gpu::launch({blocks(E), dim3(kThreads), 0, native(stream)}, scan_parts, place, count, number(E), number(parts)));
  if (n == 0) return;
  UPCYCLE_CUDA(gpu::launch({blocks(parts), dim3(kThreads), (1 + kWarps) * row_bytes, native(stream)}, place_parts,
                           token, row, place, count, expert, number(n), number(k), number(E), number(parts), number(R),
                           number(align)));
}

}  // namespace upcycle
