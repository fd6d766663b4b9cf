#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/checks/gate.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// A gate per token: the sigmoid of a product with the token's row.
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 15;  // elements; below, waking threads costs more than the work

template <class T>
float dot(const T* a, const T* b, std::int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += load(a + i) * load(b + i);
  return sum;
}

template <class T>
const T* row_of(const Tensor& t, std::int64_t row) {
  return t.as<T>() + row * t.row_stride;
}

// Where exp(-z) would become infinite the sigmoid is 0, as it should be.
template <class T>
float gate(const Tensor& x, const Tensor& weight, std::int64_t t, std::int64_t H) {
  return 1.0f / (1.0f + std::exp(-dot(row_of<T>(x, t), weight.as<T>(), H)));
}

template <class T>
void multiply(T* row, float by, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(row + i, load(row + i) * by);
}

template <class T>
void forward(const Tensor& rows, const Tensor& x, const Tensor& weight, const GateSizes& s) {
#pragma omp parallel for if (s.T * (s.F + s.H) >= kParallelFrom)
  for (std::int64_t t = 0; t < s.T; ++t) multiply(rows.as<T>() + t * rows.row_stride, gate<T>(x, weight, t, s.H), s.F);
}

// With g the gate and rows = g r: dlogit = g (1 - g) <drows, r> = (1 - g) <drows, rows>.
template <class T>
void backward(const Tensor& drows, const Tensor& dlogits, const Tensor& rows, const Tensor& x, const Tensor& weight,
              const GateSizes& s) {
#pragma omp parallel for if (s.T * (s.F + s.H) >= kParallelFrom)
  for (std::int64_t t = 0; t < s.T; ++t) {
    T* const d = drows.as<T>() + t * drows.row_stride;
    const float g = gate<T>(x, weight, t, s.H);
    dlogits.as<float>()[t] = (1.0f - g) * dot(d, row_of<T>(rows, t), s.F);
    multiply(d, g, s.F);
  }
}

// Each thread sums its own range of rows; the partial sums are then added in row order.
template <class T>
void logits_backward(float* partials, const Tensor& dx, const Tensor& dweight, const Tensor& dlogits, const Tensor& x,
                     const Tensor& weight, const GateSizes& s) {
  const T* const w = weight.as<T>();
  float* const total = dweight.as<float>();
#pragma omp parallel if (s.T * s.H >= kParallelFrom)
  {
    const std::int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    float* const partial = partials + me * s.H;
    std::fill(partial, partial + s.H, 0.0f);
    for (std::int64_t t = s.T * me / threads; t < s.T * (me + 1) / threads; ++t) {
      const float d = dlogits.as<float>()[t];
      const T* const from = row_of<T>(x, t);
      T* const to = dx.as<T>() + t * dx.row_stride;
#pragma omp simd
      for (std::int64_t h = 0; h < s.H; ++h) {
        partial[h] += d * load(from + h);
        store(to + h, load(to + h) + d * load(w + h));
      }
    }
#pragma omp barrier
#pragma omp for
    for (std::int64_t h = 0; h < s.H; ++h) {
      float sum = 0.0f;
      for (std::int64_t i = 0; i < threads; ++i) sum += partials[i * s.H + h];
      total[h] += sum;
    }
  }
}

std::size_t partials_bytes(std::int64_t H) {
  return static_cast<std::size_t>(omp_get_max_threads() * H) * sizeof(float);
}

template <class F>
void with_type(const Tensor& x, const F& f) {
  if (x.dtype == DType::BF16)
    f(bf16{});
  else
    f(float{});
}

}  // namespace

std::size_t CpuOps::gate_logits_backward_workspace(const OpLimits& limits) { return partials_bytes(limits.H); }

void CpuOps::gate_rows_forward(Stream&, const Tensor& rows, const Tensor& x, const Tensor& weight) {
  const GateSizes s = check_gate_rows_forward(rows, x, weight);
  with_type(x, [&]<class T>(T) { forward<T>(rows, x, weight, s); });
}

void CpuOps::gate_rows_backward(Stream&, const Tensor& drows, const Tensor& dlogits, const Tensor& rows,
                                const Tensor& x, const Tensor& weight) {
  const GateSizes s = check_gate_rows_backward(drows, dlogits, rows, x, weight);
  with_type(x, [&]<class T>(T) { backward<T>(drows, dlogits, rows, x, weight, s); });
}

void CpuOps::gate_logits_backward(Stream&, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                  const Tensor& dlogits, const Tensor& x, const Tensor& weight) {
  const GateSizes s = check_gate_logits_backward(dx, dweight, dlogits, x, weight);
  check_workspace("gate_logits_backward", workspace, partials_bytes(s.H));
  float* const partials = static_cast<float*>(workspace.data);
  with_type(x, [&]<class T>(T) { logits_backward<T>(partials, dx, dweight, dlogits, x, weight, s); });
}

}  // namespace upcycle
