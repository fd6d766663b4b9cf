#include <omp.h>

#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/checks/rms_norm.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// RMSNorm (arXiv 1910.07467).
namespace upcycle {
namespace {

// Elements; below, waking threads costs more than the work. The backward's sums depend on the number of threads.
constexpr std::int64_t kParallelFrom = 1 << 15, kBackwardParallelFrom = 1 << 14;

// What is added to the weight. -0 leaves every number as it is, the sign of 0 included.
float offset_of(NormWeight weight) { return weight == NormWeight::UnitOffset ? 1.0f : -0.0f; }

template <class T>
void forward_row(T* out, float* rstd, T* sum, const T* x, const T* delta, const T* weight, std::int64_t H, float eps,
                 float offset) {
  const T* normed = x;
  if (delta != nullptr) {
#pragma omp simd
    for (std::int64_t h = 0; h < H; ++h) store(sum + h, load(x + h) + load(delta + h));
    normed = sum;  // the rounded sum: what the backward will see
  }
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t h = 0; h < H; ++h) squares += load(normed + h) * load(normed + h);
  const float r = 1.0f / std::sqrt(squares / static_cast<float>(H) + eps);
  *rstd = r;
#pragma omp simd
  for (std::int64_t h = 0; h < H; ++h) store(out + h, load(normed + h) * r * (load(weight + h) + offset));
}

// With y = x * rstd and g = dout * weight: dx += rstd * (g - y * mean(g * y)), dweight += dout * y.
template <class T>
void backward_row(T* dx, float* dweight, const T* dout, const T* x, const T* weight, float rstd, std::int64_t H,
                  float offset) {
  float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t h = 0; h < H; ++h) {
    const float dy = load(dout + h) * load(x + h) * rstd;
    dweight[h] += dy;
    dot += dy * (load(weight + h) + offset);
  }
  const float mean = dot / static_cast<float>(H);
#pragma omp simd
  for (std::int64_t h = 0; h < H; ++h) {
    const float y = load(x + h) * rstd;
    store(dx + h, load(dx + h) + rstd * (load(dout + h) * (load(weight + h) + offset) - y * mean));
  }
}

template <class T>
void forward(const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x, const Tensor& delta,
             const Tensor& weight, float eps, float offset) {
  const std::int64_t rows = x.rows(), H = x.columns();
  const T* w = weight.as<T>();
  float* r = rstd.as<float>();
#pragma omp parallel for schedule(dynamic, 4) if (rows * H >= kParallelFrom)
  for (std::int64_t t = 0; t < rows; ++t) {
    forward_row(out.as<T>() + t * out.row_stride, r + t, delta ? sum.as<T>() + t * sum.row_stride : nullptr,
                x.as<T>() + t * x.row_stride, delta ? delta.as<T>() + t * delta.row_stride : nullptr, w, H, eps,
                offset);
  }
}

// Each thread sums its own range of rows; the partial sums are then added in row order.
template <class T>
void backward(float* partials, const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
              const Tensor& weight, const Tensor& rstd, float offset) {
  const std::int64_t rows = x.rows(), H = x.columns();
  float* total = dweight.as<float>();
#pragma omp parallel if (rows * H >= kBackwardParallelFrom)
  {
    const std::int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    float* partial = partials + me * H;
    std::memset(partial, 0, static_cast<std::size_t>(H) * sizeof(float));
    for (std::int64_t t = rows * me / threads; t < rows * (me + 1) / threads; ++t) {
      backward_row(dx.as<T>() + t * dx.row_stride, partial, dout.as<T>() + t * dout.row_stride,
                   x.as<T>() + t * x.row_stride, weight.as<T>(), rstd.as<float>()[t], H, offset);
    }
#pragma omp barrier
#pragma omp for
    for (std::int64_t h = 0; h < H; ++h) {
      float sum = 0.0f;
      for (std::int64_t i = 0; i < threads; ++i) sum += partials[i * H + h];
      total[h] += sum;
    }
  }
}

std::size_t partials_bytes(std::int64_t H) {
  return static_cast<std::size_t>(omp_get_max_threads() * H) * sizeof(float);
}

}  // namespace

std::size_t CpuOps::rms_norm_backward_workspace(const OpLimits& limits) { return partials_bytes(limits.H); }

void CpuOps::rms_norm_forward(Stream&, const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                              const Tensor& delta, const Tensor& weight, float eps, NormWeight kind) {
  check_rms_norm_forward(out, rstd, sum, x, delta, weight);
  if (x.dtype == DType::BF16) {
    forward<bf16>(out, rstd, sum, x, delta, weight, eps, offset_of(kind));
  } else {
    forward<float>(out, rstd, sum, x, delta, weight, eps, offset_of(kind));
  }
}

void CpuOps::rms_norm_backward(Stream&, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                               const Tensor& dout, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                               NormWeight kind) {
  const std::int64_t H = check_rms_norm_backward(dx, dweight, dout, x, weight, rstd).H;
  check_workspace("rms_norm_backward", workspace, partials_bytes(H));
  float* partials = static_cast<float*>(workspace.data);
  if (x.dtype == DType::BF16) {
    backward<bf16>(partials, dx, dweight, dout, x, weight, rstd, offset_of(kind));
  } else {
    backward<float>(partials, dx, dweight, dout, x, weight, rstd, offset_of(kind));
  }
}

}  // namespace upcycle
