#include <cmath>

#include "kernels/checks/paged_attention.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda_ops.h"

namespace upcycle::cuda {
namespace {

struct PagedShape {
  int G, K, D, P, columns;  // columns of the table of pages
  std::int64_t count;
  float scale;
  const int *offsets, *lengths, *pages;
};

// A warp has one query row of one head and walks over its keys; lane i has the columns i, i + 32, ...
template <class T, int kColumns>
__global__ void __launch_bounds__(32)
    paged_attention_kernel(Rows<T> out, Rows<const T> q, const T* keys, const T* values, PagedShape s) {
  const int row = static_cast<int>(blockIdx.x), n = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x);
  T* const to = out.data + row * out.stride + static_cast<std::int64_t>(n) * s.D;
  std::int64_t low = 0, high = s.count;  // the sequence of the row: the last that begins at or before it
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (s.offsets[middle] <= row ? low : high) = middle;
  }
  if (s.count == 0 || row >= s.offsets[s.count]) {
    for (int d = lane; d < s.D; d += 32) to[d] = from_float<T>(0.0f);
    return;
  }
  const int seen = s.lengths[low] - (s.offsets[low + 1] - 1 - row);
  const int* const pages = s.pages + low * s.columns;
  const T* const query = q.data + row * q.stride + static_cast<std::int64_t>(n) * s.D;
  float x[kColumns], sums[kColumns] = {}, highest = -INFINITY, total = 0;
  for (int c = 0; c < kColumns; ++c) x[c] = lane + 32 * c < s.D ? to_float(query[lane + 32 * c]) : 0.0f;
  for (int j = 0; j < seen; ++j) {
    const std::int64_t at = ((std::int64_t{pages[j / s.P]} * s.K + n / s.G) * s.P + j % s.P) * s.D;
    float score = 0;
    for (int c = 0; c < kColumns; ++c)
      if (lane + 32 * c < s.D) score += x[c] * to_float(keys[at + lane + 32 * c]);
    score = warp_sum(score) * s.scale;
    const float before = highest;
    highest = fmaxf(before, score);
    const float shrink = expf(before - highest), weight = expf(score - highest);
    total = total * shrink + weight;
    for (int c = 0; c < kColumns; ++c) {
      const float value = lane + 32 * c < s.D ? to_float(values[at + lane + 32 * c]) : 0.0f;
      sums[c] = sums[c] * shrink + weight * value;
    }
  }
  for (int c = 0; c < kColumns; ++c)
    if (lane + 32 * c < s.D) to[lane + 32 * c] = from_float<T>(sums[c] / total);
}

}  // namespace
}  // namespace upcycle::cuda

namespace upcycle {

std::size_t CudaOps::paged_attention_workspace(const OpLimits&) { return 0; }

void CudaOps::paged_attention(Stream& stream, Workspace, const Tensor& out, const Tensor& q, const PagedCache& cache,
                              const PagedSequences& sequences) {
  using namespace cuda;
  const PagedSizes p = check_paged_attention(out, q, cache, sequences);
  const attention::Sizes& z = p.rows;
  if (z.Tq == 0) return;
  UPCYCLE_CHECK(z.Tq < INT32_MAX && z.N < 65536, "paged_attention: q {} is more than a launch holds", q.describe());
  const PagedShape s{static_cast<int>(z.G),
                     static_cast<int>(z.K),
                     static_cast<int>(z.D),
                     static_cast<int>(p.P),
                     static_cast<int>(p.columns),
                     sequences.count,
                     z.scale,
                     sequences.offsets.as<std::int32_t>(),
                     sequences.lengths.as<std::int32_t>(),
                     sequences.pages.as<std::int32_t>()};
  const dim3 grid(static_cast<unsigned>(z.Tq), static_cast<unsigned>(z.N));
  with_head_size(z.D, [&]<int kD>() {
    with_type(q, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      UPCYCLE_CUDA(gpu::launch({grid, dim3(32), 0, native(stream)}, paged_attention_kernel<T, kD / 32>, Rows<T>(out),
                               Rows<const T>(q), static_cast<const T*>(cache.k.data),
                               static_cast<const T*>(cache.v.data), s));
    });
  });
}

}  // namespace upcycle
