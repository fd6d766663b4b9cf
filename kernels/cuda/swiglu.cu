#include "kernels/checks/swiglu.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// SwiGLU (arXiv 2002.05202).
namespace upcycle {
namespace {

using namespace cuda;

// Held constant below -80, where expf(-x) would become infinite and the derivative inf * 0. NaN stays NaN. The fast
// division is accurate to 2 ulp for divisors below 2^126; the exact one has a slow path that prevents wide stores.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-(x < -80.0f ? -80.0f : x))); }

template <class T, int N>
__global__ void forward(RowGrid grid, T* out, std::int64_t out_stride, const T* gate_up, std::int64_t gate_up_stride,
                        std::int64_t F) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const T* gate = gate_up + at.row * gate_up_stride + at.group * N;
  float g[N], u[N];
  Access<T, N>::load(g, gate);
  Access<T, N>::load(u, gate + F);
#pragma unroll
  for (int i = 0; i < N; ++i) u[i] *= g[i] * sigmoid(g[i]);
  Access<T, N>::store(out + at.row * out_stride + at.group * N, u);
}

template <class T, int N>
__global__ void backward(RowGrid grid, T* dgate_up, std::int64_t dgate_up_stride, const T* dout,
                         std::int64_t dout_stride, const T* gate_up, std::int64_t gate_up_stride, std::int64_t F) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const T* gate = gate_up + at.row * gate_up_stride + at.group * N;
  T* dgate = dgate_up + at.row * dgate_up_stride + at.group * N;
  float g[N], u[N], d[N];
  Access<T, N>::load(g, gate);
  Access<T, N>::load(u, gate + F);
  Access<T, N>::load(d, dout + at.row * dout_stride + at.group * N);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float s = sigmoid(g[i]);
    u[i] = d[i] * u[i] * s * fmaf(g[i], 1.0f - s, 1.0f);
    d[i] = d[i] * g[i] * s;
  }
  Access<T, N>::store(dgate, u);
  Access<T, N>::store(dgate + F, d);
}

}  // namespace

void CudaOps::swiglu_forward(Stream& stream, const Tensor& out, const Tensor& gate_up) {
  const auto [rows, F] = check_swiglu_forward(out, gate_up);
  with_type(out, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = F % N == 0 && whole_vectors(out) && whole_vectors(gate_up);
    launch_rows("swiglu_forward", stream, rows, whole ? F / N : F, whole ? forward<T, N> : forward<T, 1>,
                static_cast<T*>(out.data), out.row_stride, static_cast<const T*>(gate_up.data), gate_up.row_stride, F);
  });
}

void CudaOps::swiglu_backward(Stream& stream, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const auto [rows, F] = check_swiglu_backward(dgate_up, dout, gate_up);
  with_type(dout, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = F % N == 0 && whole_vectors(dout) && whole_vectors(gate_up) && whole_vectors(dgate_up);
    launch_rows("swiglu_backward", stream, rows, whole ? F / N : F, whole ? backward<T, N> : backward<T, 1>,
                static_cast<T*>(dgate_up.data), dgate_up.row_stride, static_cast<const T*>(dout.data), dout.row_stride,
                static_cast<const T*>(gate_up.data), gate_up.row_stride, F);
  });
}

}  // namespace upcycle
