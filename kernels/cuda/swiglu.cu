#include "kernels/checks/swiglu.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// SwiGLU and GeGLU (arXiv 2002.05202).
namespace upcycle {
namespace {

using namespace cuda;

// Held constant below -80, where expf(-x) would become infinite and the derivative inf * 0. NaN stays NaN. The fast
// division is accurate to 2 ulp for divisors below 2^126; the exact one has a slow path that prevents wide stores.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-(x < -80.0f ? -80.0f : x))); }

// The activation is gate * sigmoid(z(gate)), its slope s (1 + gate (1 - s) z') with s = sigmoid(z). In GELU's z'
// the square is held beyond |gate| = 10, where s is 0 or 1 in fp32: an infinite one would make 0 * inf of it.
constexpr float kGeluScale = 1.59576912160573071f, kGeluCubic = kGeluScale * 0.044715f;  // 2 sqrt(2 / pi)

template <GateActivation A>
__device__ __forceinline__ float exponent(float gate) {
  if constexpr (A == GateActivation::Silu)
    return gate;
  else
    return gate * fmaf(kGeluCubic, gate * gate, kGeluScale);
}

template <GateActivation A>
__device__ __forceinline__ float slope(float gate, float s) {
  if constexpr (A == GateActivation::Silu)
    return fmaf(gate, 1.0f - s, 1.0f);
  else
    return fmaf(gate * (1.0f - s), fmaf(3.0f * kGeluCubic, fminf(gate * gate, 100.0f), kGeluScale), 1.0f);
}

template <GateActivation A, class T, int N>
__global__ void forward(RowGrid grid, T* out, std::int64_t out_stride, const T* gate_up, std::int64_t gate_up_stride,
                        std::int64_t F) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const T* gate = gate_up + at.row * gate_up_stride + at.group * N;
  float g[N], u[N];
  Access<T, N>::load(g, gate);
  Access<T, N>::load(u, gate + F);
#pragma unroll
  for (int i = 0; i < N; ++i) u[i] *= g[i] * sigmoid(exponent<A>(g[i]));
  Access<T, N>::store(out + at.row * out_stride + at.group * N, u);
}

template <GateActivation A, class T, int N>
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
    const float s = sigmoid(exponent<A>(g[i]));
    u[i] = d[i] * u[i] * s * slope<A>(g[i], s);
    d[i] = d[i] * g[i] * s;
  }
  Access<T, N>::store(dgate, u);
  Access<T, N>::store(dgate + F, d);
}

// Calls f(type, activation) with the activation as a constant.
template <class F>
void with_kernel(const Tensor& x, GateActivation activation, const F& f) {
  with_type(x, [&]<class T>(T* type) {
    if (activation == GateActivation::Silu)
      f(type, std::integral_constant<GateActivation, GateActivation::Silu>{});
    else
      f(type, std::integral_constant<GateActivation, GateActivation::GeluTanh>{});
  });
}

}  // namespace

void CudaOps::swiglu_forward(Stream& stream, const Tensor& out, const Tensor& gate_up, GateActivation activation) {
  const auto [rows, F] = check_swiglu_forward(out, gate_up);
  with_kernel(out, activation, [&]<class T>(T*, auto constant) {
    constexpr GateActivation A = decltype(constant)::value;
    constexpr int N = Vector<T>::N;
    const bool whole = F % N == 0 && whole_vectors(out) && whole_vectors(gate_up);
    launch_rows("swiglu_forward", stream, rows, whole ? F / N : F, whole ? forward<A, T, N> : forward<A, T, 1>,
                static_cast<T*>(out.data), out.row_stride, static_cast<const T*>(gate_up.data), gate_up.row_stride, F);
  });
}

void CudaOps::swiglu_backward(Stream& stream, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up,
                              GateActivation activation) {
  const auto [rows, F] = check_swiglu_backward(dgate_up, dout, gate_up);
  with_kernel(dout, activation, [&]<class T>(T*, auto constant) {
    constexpr GateActivation A = decltype(constant)::value;
    constexpr int N = Vector<T>::N;
    const bool whole = F % N == 0 && whole_vectors(dout) && whole_vectors(gate_up) && whole_vectors(dgate_up);
    launch_rows("swiglu_backward", stream, rows, whole ? F / N : F, whole ? backward<A, T, N> : backward<A, T, 1>,
                static_cast<T*>(dgate_up.data), dgate_up.row_stride, static_cast<const T*>(dout.data), dout.row_stride,
                static_cast<const T*>(gate_up.data), gate_up.row_stride, F);
  });
}

}  // namespace upcycle
