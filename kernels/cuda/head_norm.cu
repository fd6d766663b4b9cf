#include "core/check.h"
#include "kernels/check.h"
#include "kernels/checks/head_norm.h"
#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// RMSNorm of heads in two passes, so that a head's sums may come from several ranks in between.
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kWarps = 8;  // heads of a block of dot_heads

struct Heads {
  std::int64_t heads, D, width;
  float eps;
};

__device__ __forceinline__ float rstd_of(float squares, const Heads& z) {
  return 1.0f / sqrtf(squares / static_cast<float>(z.width) + z.eps);
}

// A warp has one head of one row.
template <class T, int N>
__global__ void dot_heads(float* dots, const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride,
                          const T* weight, std::int64_t count, std::int64_t heads, std::int64_t D) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (at >= count) return;
  const T* x = a + at / heads * a_stride + at % heads * D;
  const T* y = b + at / heads * b_stride + at % heads * D;
  float sum = 0;
  for (std::int64_t i = threadIdx.x * N; i < D; i += 32 * N) {
    float f[N], g[N];
    Access<T, N>::load(f, x + i);
    Access<T, N>::load(g, y + i);
    if (weight != nullptr) {
      float w[N];
      Access<T, N>::load(w, weight + i);
#pragma unroll
      for (int j = 0; j < N; ++j) g[j] *= w[j];
    }
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(f[j], g[j], sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) dots[at] = sum;
}

template <class T, int N>
__global__ void forward(RowGrid grid, Heads z, T* out, std::int64_t out_stride, const T* x, std::int64_t x_stride,
                        const T* weight, const float* squares) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t column = at.group * N;
  const float rstd = rstd_of(squares[at.row * z.heads + column / z.D], z);
  float f[N], w[N];
  Access<T, N>::load(f, x + at.row * x_stride + column);
  Access<T, N>::load(w, weight + column % z.D);
#pragma unroll
  for (int i = 0; i < N; ++i) f[i] = f[i] * rstd * w[i];
  Access<T, N>::store(out + at.row * out_stride + column, f);
}

// With y = x * rstd and g = dout * weight: dx = rstd * (g - y * mean(g * y)). dx may be dout.
template <class T, int N>
__global__ void backward(RowGrid grid, Heads z, T* dx, std::int64_t dx_stride, const T* dout, std::int64_t dout_stride,
                         const T* x, std::int64_t x_stride, const T* weight, const float* squares, const float* dots) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t column = at.group * N, head = at.row * z.heads + column / z.D;
  const float rstd = rstd_of(squares[head], z), mean = dots[head] * rstd / static_cast<float>(z.width);
  float d[N], f[N], w[N];
  Access<T, N>::load(d, dout + at.row * dout_stride + column);
  Access<T, N>::load(f, x + at.row * x_stride + column);
  Access<T, N>::load(w, weight + column % z.D);
#pragma unroll
  for (int i = 0; i < N; ++i) d[i] = rstd * fmaf(d[i], w[i], -(f[i] * rstd * mean));
  Access<T, N>::store(dx + at.row * dx_stride + column, d);
}

// dout * x * rstd of an element, whose row is a head's.
template <class T>
struct WeightGradient {
  Heads z;
  const T* dout;
  std::int64_t dout_stride;
  const T* x;
  std::int64_t x_stride;
  const float* squares;
  __device__ float operator()(std::int64_t row, std::int64_t i) const {
    const std::int64_t t = row / z.heads, column = row % z.heads * z.D + i;
    return cuda::to_float(dout[t * dout_stride + column]) * cuda::to_float(x[t * x_stride + column]) *
           rstd_of(squares[row], z);
  }
};

}  // namespace

void CudaOps::head_dots(Stream& stream, const Tensor& dots, const Tensor& a, const Tensor& b, const Tensor& weight) {
  const HeadSizes z = check_head_dots(dots, a, b, weight);
  const std::int64_t count = z.T * z.heads, blocks = (count + kWarps - 1) / kWarps;
  UPCYCLE_CHECK(blocks < std::int64_t{1} << 31, "head_dots: {} heads are more than a launch holds", count);
  if (count == 0) return;
  with_type(a, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = z.D % N == 0 && whole_vectors(a) && whole_vectors(b) && (!weight || whole_vectors(weight));
    UPCYCLE_CUDA(gpu::launch({dim3(static_cast<unsigned>(blocks)), dim3(32, kWarps), 0, native(stream)},
                             whole ? dot_heads<T, N> : dot_heads<T, 1>, dots.as<float>(), static_cast<const T*>(a.data),
                             a.row_stride, static_cast<const T*>(b.data), b.row_stride,
                             static_cast<const T*>(weight.data), count, z.heads, z.D));
  });
}

void CudaOps::head_norm_forward(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& weight,
                                const Tensor& squares, std::int64_t width, float eps) {
  const HeadSizes z = check_head_norm_forward(out, x, weight, squares, width);
  with_type(x, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = z.D % N == 0 && whole_vectors(out) && whole_vectors(x) && whole_vectors(weight);
    launch_rows("head_norm_forward", stream, z.T, whole ? x.columns() / N : x.columns(),
                whole ? forward<T, N> : forward<T, 1>, Heads{z.heads, z.D, width, eps}, static_cast<T*>(out.data),
                out.row_stride, static_cast<const T*>(x.data), x.row_stride, static_cast<const T*>(weight.data),
                static_cast<const float*>(squares.as<float>()));
  });
}

void CudaOps::head_norm_backward(Stream& stream, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                 const Tensor& dout, const Tensor& x, const Tensor& weight, const Tensor& squares,
                                 const Tensor& dots, std::int64_t width, float eps) {
  const HeadSizes z = check_head_norm_backward(dx, dweight, dout, x, weight, squares, dots, width);
  check_workspace("head_norm_backward", workspace, scratch::column_parts(z.D));
  const Heads heads{z.heads, z.D, width, eps};
  with_type(x, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const T *d = static_cast<const T*>(dout.data), *input = static_cast<const T*>(x.data);
    add_column_sums(stream, dweight.as<float>(), static_cast<float*>(workspace.data), z.T * z.heads, z.D,
                    WeightGradient<T>{heads, d, dout.row_stride, input, x.row_stride, squares.as<float>()});
    const bool whole =
        z.D % N == 0 && whole_vectors(dx) && whole_vectors(dout) && whole_vectors(x) && whole_vectors(weight);
    launch_rows("head_norm_backward", stream, z.T, whole ? x.columns() / N : x.columns(),
                whole ? backward<T, N> : backward<T, 1>, heads, static_cast<T*>(dx.data), dx.row_stride, d,
                dout.row_stride, input, x.row_stride, static_cast<const T*>(weight.data),
                static_cast<const float*>(squares.as<float>()), static_cast<const float*>(dots.as<float>()));
  });
}

}  // namespace upcycle
