#include "kernels/checks/bias.h"

#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 16;  // elements; below, waking threads costs more than the work

template <class T>
void forward(const Tensor& x, const T* bias) {
  const std::int64_t rows = x.rows(), n = x.columns();
#pragma omp parallel for schedule(dynamic, 4) if (rows * n >= kParallelFrom)
  for (std::int64_t t = 0; t < rows; ++t) {
    T* row = x.as<T>() + t * x.row_stride;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) store(row + i, load(row + i) + load(bias + i));
  }
}

template <class T>
void backward(float* dbias, const Tensor& dout) {
  const T* d = dout.as<T>();
  add_column_sums(dbias, dout.rows(), dout.columns(),
                  [=, stride = dout.row_stride](std::int64_t t, std::int64_t i) { return load(d + t * stride + i); });
}

}  // namespace

std::size_t CpuOps::bias_backward_workspace(const OpLimits&) { return 0; }

void CpuOps::add_bias(Stream&, const Tensor& x, const Tensor& bias) {
  check_add_bias(x, bias);
  if (x.dtype == DType::BF16)
    forward(x, bias.as<bf16>());
  else
    forward(x, bias.as<float>());
}

void CpuOps::bias_backward(Stream&, Workspace, const Tensor& dbias, const Tensor& dout) {
  check_bias_backward(dbias, dout);
  if (dout.dtype == DType::BF16)
    backward<bf16>(dbias.as<float>(), dout);
  else
    backward<float>(dbias.as<float>(), dout);
}

}  // namespace upcycle
