#include "core/check.h"
#include "kernels/check.h"
#include "kernels/checks/rms_norm.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda_limits.h"

// RMSNorm (arXiv 1910.07467). A block processes one row at a time; its threads take turns with groups of N adjacent
// elements.
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kNarrow = 64, kWide = 256;         // threads of a block, by the number of groups in a row
constexpr int kPartColumns = 32, kPartRuns = 8;  // per block of add_parts: columns, and runs of parts

// What is added to the weight. -0 leaves every number as it is, the sign of 0 included.
float offset_of(NormWeight weight) { return weight == NormWeight::UnitOffset ? 1.0f : -0.0f; }

// The sum is written, rounded to its type, before it is normed: the backward sees the rounded values.
template <class T, int N, int Threads>
__global__ void forward(T* out, std::int64_t out_stride, float* rstd, T* sum, std::int64_t sum_stride, const T* x,
                        std::int64_t x_stride, const T* delta, std::int64_t delta_stride, const T* weight,
                        std::int64_t H, float eps, float offset) {
  const std::int64_t row = blockIdx.x;
  const T* normed = x + row * x_stride;
  float squares = 0;
  for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
    float f[N];
    Access<T, N>::load(f, x + row * x_stride + h);
    if (delta != nullptr) {
      float d[N];
      Access<T, N>::load(d, delta + row * delta_stride + h);
#pragma unroll
      for (int i = 0; i < N; ++i) f[i] = cuda::to_float(from_float<T>(f[i] + d[i]));
      Access<T, N>::store(sum + row * sum_stride + h, f);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(f[i], f[i], squares);
  }
  if (delta != nullptr) normed = sum + row * sum_stride;
  const float r = 1.0f / sqrtf(block_sum<Threads>(squares) / static_cast<float>(H) + eps);
  if (threadIdx.x == 0) rstd[row] = r;
  // Each thread reads what it has just read or written: from the cache.
  for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
    float f[N], w[N];
    Access<T, N>::load(f, normed + h);
    Access<T, N>::load(w, weight + h);
#pragma unroll
    for (int i = 0; i < N; ++i) f[i] = f[i] * r * (w[i] + offset);
    Access<T, N>::store(out + row * out_stride + h, f);
  }
}

template <int N>
__device__ __forceinline__ void store_shared(float* p, const float (&f)[N]) {
  if constexpr (N == 1) {
    *p = f[0];
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float piece[4] = {f[i], f[i + 1], f[i + 2], f[i + 3]};
      Vector<float>::store(p + i, piece);
    }
  }
}

// With y = x * rstd and g = dout * weight: dx += rstd * (g - y * mean(g * y)), dweight += dout * y. A block has the
// rows of one part and sums their dweight in shared memory; no two threads share a column.
template <class T, int N, int Threads>
__global__ void backward(float* parts, T* dx, std::int64_t dx_stride, const T* dout, std::int64_t dout_stride,
                         const T* x, std::int64_t x_stride, const T* weight, const float* rstd, std::int64_t rows,
                         std::int64_t H, float offset) {
  GPU_DYN_SHARED(float, dweight);
  for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
#pragma unroll
    for (int i = 0; i < N; ++i) dweight[h + i] = 0;
  }
  const std::int64_t part = blockIdx.x, count = gridDim.x;
  for (std::int64_t row = rows * part / count; row < rows * (part + 1) / count; ++row) {
    const float r = rstd[row];
    float dot = 0;
    for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
      float d[N], y[N], w[N], dw[N];
      Access<T, N>::load(d, dout + row * dout_stride + h);
      Access<T, N>::load(y, x + row * x_stride + h);
      Access<T, N>::load(w, weight + h);
      Access<float, N>::load(dw, dweight + h);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float dy = d[i] * (y[i] * r);
        dw[i] += dy;
        dot = fmaf(dy, w[i] + offset, dot);
      }
      store_shared<N>(dweight + h, dw);
    }
    const float mean = block_sum<Threads>(dot) / static_cast<float>(H);
    for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
      float d[N], y[N], w[N], to[N];
      Access<T, N>::load(d, dout + row * dout_stride + h);
      Access<T, N>::load(y, x + row * x_stride + h);
      Access<T, N>::load(w, weight + h);
      Access<T, N>::load(to, dx + row * dx_stride + h);
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] = fmaf(r, fmaf(d[i], w[i] + offset, -(y[i] * r * mean)), to[i]);
      Access<T, N>::store(dx + row * dx_stride + h, to);
    }
  }
  for (std::int64_t h = threadIdx.x * N; h < H; h += Threads * N) {
    float dw[N];
    Access<float, N>::load(dw, dweight + h);
    Access<float, N>::store(parts + part * H + h, dw);
  }
}

// dweight += the parts, in the order of rows within a run of parts, then in the order of runs.
__global__ void add_parts(float* dweight, const float* parts, std::int64_t count, std::int64_t H) {
  GPU_SHARED(float, runs, [kPartRuns][kPartColumns]);
  const std::int64_t h = std::int64_t{blockIdx.x} * kPartColumns + threadIdx.x;
  float sum = 0;
  if (h < H)
    for (std::int64_t p = count * threadIdx.y / kPartRuns; p < count * (threadIdx.y + 1) / kPartRuns; ++p)
      sum += parts[p * H + h];
  runs[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || h >= H) return;
  for (int run = 1; run < kPartRuns; ++run) sum += runs[run][threadIdx.x];
  dweight[h] += sum;
}

// Calls f with the element type, elements per group and threads per block, as constants.
template <class F>
void with_shape(const Tensor& x, bool whole, const F& f) {
  with_type(x, [&]<class T>(T* type) {
    const auto with_group = [&](auto n) {
      if (x.columns() <= 2 * kNarrow * n())
        f(type, n, std::integral_constant<int, kNarrow>{});
      else
        f(type, n, std::integral_constant<int, kWide>{});
    };
    if (whole)
      with_group(std::integral_constant<int, Vector<T>::N>{});
    else
      with_group(std::integral_constant<int, 1>{});
  });
}

dim3 blocks_of(const char* op, std::int64_t count) {
  UPCYCLE_CHECK(count < std::int64_t{1} << 31, "{}: {} rows are more than a launch holds", op, count);
  return dim3(static_cast<unsigned>(count));
}

}  // namespace

void CudaOps::rms_norm_forward(Stream& stream, const Tensor& out, const Tensor& rstd, const Tensor& sum,
                               const Tensor& x, const Tensor& delta, const Tensor& weight, float eps, NormWeight kind) {
  const auto [rows, H] = check_rms_norm_forward(out, rstd, sum, x, delta, weight);
  if (rows == 0) return;
  const bool whole = whole_vectors(x) && whole_vectors(out) && whole_vectors(weight) &&
                     (!delta || (whole_vectors(delta) && whole_vectors(sum)));
  with_shape(x, whole, [&]<class T>(T*, auto n, auto threads) {
    constexpr int N = decltype(n)::value, Threads = decltype(threads)::value;
    UPCYCLE_CUDA(gpu::launch({blocks_of("rms_norm_forward", rows), dim3(Threads), 0, native(stream)},
                             forward<T, N, Threads>, static_cast<T*>(out.data), out.row_stride, rstd.as<float>(),
                             static_cast<T*>(sum.data), sum.row_stride, static_cast<const T*>(x.data), x.row_stride,
                             static_cast<const T*>(delta.data), delta.row_stride, static_cast<const T*>(weight.data), H,
                             eps, offset_of(kind)));
  });
}

void CudaOps::rms_norm_backward(Stream& stream, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                const Tensor& dout, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                                NormWeight kind) {
  const auto [rows, H] = check_rms_norm_backward(dx, dweight, dout, x, weight, rstd);
  check_workspace("rms_norm_backward", workspace, scratch::norm_parts(H));
  const std::size_t shared = static_cast<std::size_t>(H) * sizeof(float);
  UPCYCLE_CHECK(H <= kLargestHidden, "rms_norm_backward: H is {}, at most {} fit in shared memory", H, kLargestHidden);
  if (rows == 0 || H == 0) return;
  const std::int64_t count = std::min(rows, scratch::kNormParts);
  float* const parts = static_cast<float*>(workspace.data);
  const bool whole = whole_vectors(x) && whole_vectors(dx) && whole_vectors(dout) && whole_vectors(weight) &&
                     reinterpret_cast<std::uintptr_t>(parts) % 16 == 0;
  with_shape(x, whole, [&]<class T>(T*, auto n, auto threads) {
    constexpr int N = decltype(n)::value, Threads = decltype(threads)::value;
    UPCYCLE_CUDA(gpu::launch({blocks_of("rms_norm_backward", count), dim3(Threads), shared, native(stream)},
                             backward<T, N, Threads>, parts, static_cast<T*>(dx.data), dx.row_stride,
                             static_cast<const T*>(dout.data), dout.row_stride, static_cast<const T*>(x.data),
                             x.row_stride, static_cast<const T*>(weight.data), rstd.as<float>(), rows, H,
                             offset_of(kind)));
  });
  UPCYCLE_CUDA(gpu::launch({blocks_of("rms_norm_backward", (H + kPartColumns - 1) / kPartColumns),
                            dim3(kPartColumns, kPartRuns), 0, native(stream)},
                           add_parts, dweight.as<float>(), parts, count, H));
}

}  // namespace upcycle
