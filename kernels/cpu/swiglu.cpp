#include <bit>

#include "kernels/checks/swiglu.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// SwiGLU and GeGLU (arXiv 2002.05202).
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 15;  // elements; below, waking threads costs more than the work

// 1 / (1 + e^-x) to about 2 ulp between -80 and 80, constant beyond. The comparisons are written so that they compile
// to min and max, which turns NaN into a number; but every result below is multiplied by the gate itself, which is NaN.
float sigmoid(float x) {
  float clamped = x < 80.0f ? x : 80.0f;
  clamped = clamped > -80.0f ? clamped : -80.0f;
  constexpr float kRound = 12582912.0f;
  constexpr float kLog2e = 1.44269502162933350f,
                  kLog2eRest = 1.92596299e-8f;  // in two parts, because |x| amplifies its rounding error
  const float shifted = clamped * -kLog2e + kRound;
  float r = clamped * -kLog2e - (shifted - kRound);
  r = clamped * -kLog2eRest + r;
  float p = 1.535336188319500e-4f;  // 2^r on |r| <= 1/2, Cephes
  p = p * r + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
  const std::int32_t n = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  return 1.0f / (1.0f + p * std::bit_cast<float>((n + 127) << 23));
}

// The activation is gate * sigmoid(z(gate)), its slope s (1 + gate (1 - s) z') with s = sigmoid(z). In GELU's z'
// the square is held beyond |gate| = 10, where s is 0 or 1 in fp32: an infinite one would make 0 * inf of it.
constexpr float kGeluScale = 1.59576912160573071f, kGeluCubic = kGeluScale * 0.044715f;  // 2 sqrt(2 / pi)
float capped_square(float gate) { return gate * gate < 100.0f ? gate * gate : 100.0f; }

template <GateActivation A>
float exponent(float gate) {
  if constexpr (A == GateActivation::Silu)
    return gate;
  else
    return gate * (kGeluCubic * (gate * gate) + kGeluScale);
}

template <GateActivation A>
float slope(float gate, float s) {
  if constexpr (A == GateActivation::Silu)
    return 1.0f + gate * (1.0f - s);
  else
    return 1.0f + gate * (1.0f - s) * (3.0f * kGeluCubic * capped_square(gate) + kGeluScale);
}

template <class T, GateActivation A>
void forward(const Tensor& out, const Tensor& gate_up) {
  const std::int64_t rows = out.rows(), F = out.columns();
#pragma omp parallel for schedule(dynamic, 4) if (rows * F >= kParallelFrom)
  for (std::int64_t t = 0; t < rows; ++t) {
    T* y = out.as<T>() + t * out.row_stride;
    const T* gate = gate_up.as<T>() + t * gate_up.row_stride;
    const T* up = gate + F;
#pragma omp simd
    for (std::int64_t f = 0; f < F; ++f) {
      const float g = load(gate + f);
      store(y + f, g * sigmoid(exponent<A>(g)) * load(up + f));
    }
  }
}

template <class T, GateActivation A>
void backward(const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const std::int64_t rows = dout.rows(), F = dout.columns();
#pragma omp parallel for schedule(dynamic, 4) if (rows * F >= kParallelFrom)
  for (std::int64_t t = 0; t < rows; ++t) {
    const T* dy = dout.as<T>() + t * dout.row_stride;
    const T* gate = gate_up.as<T>() + t * gate_up.row_stride;
    const T* up = gate + F;
    T* dgate = dgate_up.as<T>() + t * dgate_up.row_stride;
    T* dup = dgate + F;
#pragma omp simd
    for (std::int64_t f = 0; f < F; ++f) {
      const float g = load(gate + f), u = load(up + f), d = load(dy + f), s = sigmoid(exponent<A>(g));
      store(dgate + f, d * u * s * slope<A>(g, s));
      store(dup + f, d * g * s);
    }
  }
}

// Calls f.operator()<T, A>() for the type and the activation.
template <class F>
void with_kernel(DType dtype, GateActivation activation, const F& f) {
  const auto with_type = [&]<GateActivation A>() {
    if (dtype == DType::BF16)
      f.template operator()<bf16, A>();
    else
      f.template operator()<float, A>();
  };
  if (activation == GateActivation::Silu)
    with_type.template operator()<GateActivation::Silu>();
  else
    with_type.template operator()<GateActivation::GeluTanh>();
}

}  // namespace

void CpuOps::swiglu_forward(Stream&, const Tensor& out, const Tensor& gate_up, GateActivation activation) {
  check_swiglu_forward(out, gate_up);
  with_kernel(out.dtype, activation, [&]<class T, GateActivation A>() { forward<T, A>(out, gate_up); });
}

void CpuOps::swiglu_backward(Stream&, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up,
                             GateActivation activation) {
  check_swiglu_backward(dgate_up, dout, gate_up);
  with_kernel(dout.dtype, activation, [&]<class T, GateActivation A>() { backward<T, A>(dgate_up, dout, gate_up); });
}

}  // namespace upcycle
