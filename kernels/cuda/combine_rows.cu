#include "kernels/checks/expert_rows.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

constexpr int kWide = 8;  // elements per thread if rows allow 128-bit accesses

// weights may be null: all 1.
template <class Out, class Row, int N>
__global__ void combine(RowGrid grid, Out* out, std::int64_t out_stride, const Row* rows, std::int64_t rows_stride,
                        const int* slot, const float* weights, std::int64_t k, bool accumulate) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  float sum[N] = {};
  for (std::int64_t j = at.row * k; j < (at.row + 1) * k; ++j) {
    const int from = slot[j];
    if (from < 0) continue;
    const float w = weights == nullptr ? 1.0f : weights[j];
    float x[N];
    Access<Row, N>::load(x, rows + from * rows_stride + at.group * N);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += w * x[i];
  }
  Out* const to = out + at.row * out_stride + at.group * N;
  if (accumulate) {
    float before[N];
    Access<Out, N>::load(before, to);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = before[i] + sum[i];
  }
  Access<Out, N>::store(to, sum);
}

// One warp per assignment, one pass over the row for both results. drows may alias rows: each element is read before it
// is written, by the same thread.
template <class Out, class Row, int N>
__global__ void __launch_bounds__(kRowThreads)
    combine_backward(Row* drows, std::int64_t drows_stride, float* dweights, const Out* dout, std::int64_t dout_stride,
                     const Row* rows, std::int64_t rows_stride, const int* slot, const float* weights, std::int64_t n,
                     std::int64_t k, std::int64_t H) {
  const std::int64_t j = (static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / 32;
  if (j >= n) return;
  const int lane = static_cast<int>(threadIdx.x % 32), row = slot[j];
  float dot = 0;
  if (row >= 0) {
    const float w = weights[j];
    const Out* const g_row = dout + j / k * dout_stride;
    for (std::int64_t h = lane * N; h < H; h += 32 * N) {
      float g[N], x[N];
      Access<Out, N>::load(g, g_row + h);
      Access<Row, N>::load(x, rows + row * rows_stride + h);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        dot += g[i] * x[i];
        g[i] *= w;
      }
      Access<Row, N>::store(drows + row * drows_stride + h, g);
    }
  }
  dot = warp_sum(dot);
  if (lane == 0) dweights[j] = dot;
}

bool wide(const Tensor& t) { return t.columns() % kWide == 0 && whole_vectors(t); }

}  // namespace

void CudaOps::combine_rows(Stream& stream, const Tensor& out, const Tensor& rows, const Tensor& slot,
                           const Tensor& weights, Store store) {
  const CombineSizes z = check_combine_rows(out, rows, slot, weights);
  const bool whole = wide(out) && wide(rows);
  with_type(out, [&]<class Out>(Out*) {
    with_type(rows, [&]<class Row>(Row*) {
      launch_rows("combine_rows", stream, z.T, whole ? z.H / kWide : z.H,
                  whole ? combine<Out, Row, kWide> : combine<Out, Row, 1>, static_cast<Out*>(out.data), out.row_stride,
                  static_cast<const Row*>(rows.data), rows.row_stride, slot.as<std::int32_t>(),
                  static_cast<const float*>(weights.data), z.k, store == Store::Accumulate);
    });
  });
}

void CudaOps::combine_rows_backward(Stream& stream, const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                                    const Tensor& rows, const Tensor& slot, const Tensor& weights) {
  const CombineSizes z = check_combine_rows_backward(drows, dweights, dout, rows, slot, weights);
  const std::int64_t n = z.T * z.k;
  if (n == 0) return;
  const std::int64_t blocks = (n * 32 + kRowThreads - 1) / kRowThreads;
  const bool whole = wide(dout) && wide(rows) && wide(drows);
  with_type(dout, [&]<class Out>(Out*) {
    with_type(rows, [&]<class Row>(Row*) {
      UPCYCLE_CUDA(gpu::launch({dim3(static_cast<unsigned>(blocks)), dim3(kRowThreads), 0, native(stream)},
                               whole ? combine_backward<Out, Row, kWide> : combine_backward<Out, Row, 1>,
                               static_cast<Row*>(drows.data), drows.row_stride, dweights.as<float>(),
                               static_cast<const Out*>(dout.data), dout.row_stride, static_cast<const Row*>(rows.data),
                               rows.row_stride, slot.as<std::int32_t>(), weights.as<float>(), n, z.k, z.H));
    });
  });
}

}  // namespace upcycle
