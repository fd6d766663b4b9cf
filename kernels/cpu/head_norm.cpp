#include "kernels/checks/head_norm.h"

#include <cmath>

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// RMSNorm of heads in two passes, so that a head's sums may come from several ranks in between.
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 15;  // elements; below, waking threads costs more than the work

float rstd_of(float squares, std::int64_t width, float eps) {
  return 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
}

template <class T>
void dot_heads(const HeadSizes& z, float* dots, const Tensor& a, const Tensor& b, const T* weight) {
#pragma omp parallel for schedule(dynamic, 4) if (z.T * z.heads * z.D >= kParallelFrom)
  for (std::int64_t t = 0; t < z.T; ++t) {
    for (std::int64_t n = 0; n < z.heads; ++n) {
      const T* x = a.as<T>() + t * a.row_stride + n * z.D;
      const T* y = b.as<T>() + t * b.row_stride + n * z.D;
      float sum = 0.0f;
      if (weight == nullptr) {
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < z.D; ++i) sum += load(x + i) * load(y + i);
      } else {
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < z.D; ++i) sum += load(x + i) * load(y + i) * load(weight + i);
      }
      dots[t * z.heads + n] = sum;
    }
  }
}

template <class T>
void forward(const HeadSizes& z, const Tensor& out, const Tensor& x, const T* weight, const float* squares,
             std::int64_t width, float eps) {
#pragma omp parallel for schedule(dynamic, 4) if (z.T * z.heads * z.D >= kParallelFrom)
  for (std::int64_t t = 0; t < z.T; ++t) {
    for (std::int64_t n = 0; n < z.heads; ++n) {
      const T* from = x.as<T>() + t * x.row_stride + n * z.D;
      T* to = out.as<T>() + t * out.row_stride + n * z.D;
      const float rstd = rstd_of(squares[t * z.heads + n], width, eps);
#pragma omp simd
      for (std::int64_t i = 0; i < z.D; ++i) store(to + i, load(from + i) * rstd * load(weight + i));
    }
  }
}

// With y = x * rstd and g = dout * weight: dx = rstd * (g - y * mean(g * y)), dweight += dout * y. dx may be dout, so
// dweight comes first.
template <class T>
void backward(const HeadSizes& z, const Tensor& dx, float* dweight, const Tensor& dout, const Tensor& x,
              const T* weight, const float* squares, const float* dots, std::int64_t width, float eps) {
  const T *d = dout.as<T>(), *input = x.as<T>();
  add_column_sums(dweight, z.T * z.heads, z.D, [=, &dout, &x](std::int64_t row, std::int64_t i) {
    const std::int64_t t = row / z.heads, at = row % z.heads * z.D + i;
    return load(d + t * dout.row_stride + at) * load(input + t * x.row_stride + at) * rstd_of(squares[row], width, eps);
  });
#pragma omp parallel for schedule(dynamic, 4) if (z.T * z.heads * z.D >= kParallelFrom)
  for (std::int64_t t = 0; t < z.T; ++t) {
    for (std::int64_t n = 0; n < z.heads; ++n) {
      const T* from = d + t * dout.row_stride + n * z.D;
      const T* in = input + t * x.row_stride + n * z.D;
      T* to = dx.as<T>() + t * dx.row_stride + n * z.D;
      const float rstd = rstd_of(squares[t * z.heads + n], width, eps);
      const float mean = dots[t * z.heads + n] * rstd / static_cast<float>(width);
#pragma omp simd
      for (std::int64_t i = 0; i < z.D; ++i)
        store(to + i, rstd * (load(from + i) * load(weight + i) - load(in + i) * rstd * mean));
    }
  }
}

}  // namespace

std::size_t CpuOps::head_norm_backward_workspace(const OpLimits&) { return 0; }

void CpuOps::head_dots(Stream&, const Tensor& dots, const Tensor& a, const Tensor& b, const Tensor& weight) {
  const HeadSizes z = check_head_dots(dots, a, b, weight);
  if (a.dtype == DType::BF16)
    dot_heads(z, dots.as<float>(), a, b, weight ? weight.as<bf16>() : nullptr);
  else
    dot_heads(z, dots.as<float>(), a, b, weight ? weight.as<float>() : nullptr);
}

void CpuOps::head_norm_forward(Stream&, const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& squares,
                               std::int64_t width, float eps) {
  const HeadSizes z = check_head_norm_forward(out, x, weight, squares, width);
  if (x.dtype == DType::BF16)
    forward(z, out, x, weight.as<bf16>(), squares.as<float>(), width, eps);
  else
    forward(z, out, x, weight.as<float>(), squares.as<float>(), width, eps);
}

void CpuOps::head_norm_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& dout,
                                const Tensor& x, const Tensor& weight, const Tensor& squares, const Tensor& dots,
                                std::int64_t width, float eps) {
  const HeadSizes z = check_head_norm_backward(dx, dweight, dout, x, weight, squares, dots, width);
  float* const dw = dweight.as<float>();
  if (x.dtype == DType::BF16)
    backward(z, dx, dw, dout, x, weight.as<bf16>(), squares.as<float>(), dots.as<float>(), width, eps);
  else
    backward(z, dx, dw, dout, x, weight.as<float>(), squares.as<float>(), dots.as<float>(), width, eps);
}

}  // namespace upcycle
