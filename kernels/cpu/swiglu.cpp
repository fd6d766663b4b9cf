#include <bit>

#include "kernels/checks/swiglu.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// SwiGLU (arXiv 2002.05202).
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

template <class T>
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
      store(y + f, g * sigmoid(g) * load(up + f));
    }
  }
}

template <class T>
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
      const float g = load(gate + f), u = load(up + f), d = load(dy + f), s = sigmoid(g);
      store(dgate + f, d * u * s * (1.0f + g * (1.0f - s)));
      store(dup + f, d * g * s);
    }
  }
}

}  // namespace

void CpuOps::swiglu_forward(Stream&, const Tensor& out, const Tensor& gate_up) {
  check_swiglu_forward(out, gate_up);
  if (out.dtype == DType::BF16) {
    forward<bf16>(out, gate_up);
  } else {
    forward<float>(out, gate_up);
  }
}

void CpuOps::swiglu_backward(Stream&, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  check_swiglu_backward(dgate_up, dout, gate_up);
  if (dout.dtype == DType::BF16) {
    backward<bf16>(dgate_up, dout, gate_up);
  } else {
    backward<float>(dgate_up, dout, gate_up);
  }
}

}  // namespace upcycle
