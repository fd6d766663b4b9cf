#include "kernels/check.h"
#include "kernels/checks/gate.h"
#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// A gate per token: the sigmoid of a product with the token's row. A block has one row.
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ float dot(const T* a, const T* b, std::int64_t n) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) sum = fmaf(cuda::to_float(a[i]), cuda::to_float(b[i]), sum);
  return block_sum<kThreads>(sum);
}

// Where expf(-z) would become infinite the sigmoid is 0, as it should be.
template <class T>
__device__ __forceinline__ float gate(const T* x, const T* weight, std::int64_t H) {
  return 1.0f / (1.0f + expf(-dot(x, weight, H)));
}

template <class T>
__global__ void forward(T* rows, std::int64_t rows_stride, const T* x, std::int64_t x_stride, const T* weight,
                        std::int64_t F, std::int64_t H) {
  const std::int64_t t = blockIdx.x;
  const float g = gate(x + t * x_stride, weight, H);
  T* const row = rows + t * rows_stride;
  for (std::int64_t f = threadIdx.x; f < F; f += kThreads) row[f] = from_float<T>(cuda::to_float(row[f]) * g);
}

// With g the gate and rows = g r: dlogit = g (1 - g) <drows, r> = (1 - g) <drows, rows>.
template <class T>
__global__ void backward(T* drows, std::int64_t drows_stride, float* dlogits, const T* rows, std::int64_t rows_stride,
                         const T* x, std::int64_t x_stride, const T* weight, std::int64_t F, std::int64_t H) {
  const std::int64_t t = blockIdx.x;
  const float g = gate(x + t * x_stride, weight, H);
  T* const d = drows + t * drows_stride;
  const float product = dot(d, rows + t * rows_stride, F);
  if (threadIdx.x == 0) dlogits[t] = (1.0f - g) * product;
  for (std::int64_t f = threadIdx.x; f < F; f += kThreads) d[f] = from_float<T>(cuda::to_float(d[f]) * g);
}

// dx += dlogits weight; parts[p] = the sum of dlogits x over the rows of part p = blockIdx.y. A thread has one column.
template <class T>
__global__ void logits_backward(float* parts, T* dx, std::int64_t dx_stride, const float* dlogits, const T* x,
                                std::int64_t x_stride, const T* weight, std::int64_t rows, std::int64_t H) {
  const std::int64_t h = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (h >= H) return;
  const std::int64_t part = blockIdx.y, count = gridDim.y;
  const float w = cuda::to_float(weight[h]);
  float sum = 0;
  for (std::int64_t t = rows * part / count; t < rows * (part + 1) / count; ++t) {
    const float d = dlogits[t];
    sum = fmaf(d, cuda::to_float(x[t * x_stride + h]), sum);
    T& to = dx[t * dx_stride + h];
    to = from_float<T>(fmaf(d, w, cuda::to_float(to)));
  }
  parts[part * H + h] = sum;
}

unsigned blocks_of(const char* op, std::int64_t rows) {
  UPCYCLE_CHECK(rows < std::int64_t{1} << 31, "{}: {} rows are more than a launch holds", op, rows);
  return static_cast<unsigned>(rows);
}

}  // namespace

void CudaOps::gate_rows_forward(Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& weight) {
  const auto [T_rows, F, H] = check_gate_rows_forward(rows, x, weight);
  if (T_rows == 0) return;
  with_type(x, [&]<class T>(T*) {
    UPCYCLE_CUDA(gpu::launch({dim3(blocks_of("gate_rows_forward", T_rows)), dim3(kThreads), 0, native(stream)},
                             forward<T>, static_cast<T*>(rows.data), rows.row_stride, static_cast<const T*>(x.data),
                             x.row_stride, static_cast<const T*>(weight.data), F, H));
  });
}

void CudaOps::gate_rows_backward(Stream& stream, const Tensor& drows, const Tensor& dlogits, const Tensor& rows,
                                 const Tensor& x, const Tensor& weight) {
  const auto [T_rows, F, H] = check_gate_rows_backward(drows, dlogits, rows, x, weight);
  if (T_rows == 0) return;
  with_type(x, [&]<class T>(T*) {
    UPCYCLE_CUDA(gpu::launch({dim3(blocks_of("gate_rows_backward", T_rows)), dim3(kThreads), 0, native(stream)},
                             backward<T>, static_cast<T*>(drows.data), drows.row_stride, dlogits.as<float>(),
                             static_cast<const T*>(rows.data), rows.row_stride, static_cast<const T*>(x.data),
                             x.row_stride, static_cast<const T*>(weight.data), F, H));
  });
}

void CudaOps::gate_logits_backward(Stream& stream, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                   const Tensor& dlogits, const Tensor& x, const Tensor& weight) {
  const GateSizes s = check_gate_logits_backward(dx, dweight, dlogits, x, weight);
  check_workspace("gate_logits_backward", workspace, scratch::norm_parts(s.H));
  if (s.T == 0 || s.H == 0) return;
  const std::int64_t count = std::min(s.T, scratch::kNormParts), across = (s.H + kThreads - 1) / kThreads;
  float* const parts = static_cast<float*>(workspace.data);
  const dim3 grid(blocks_of("gate_logits_backward", across), static_cast<unsigned>(count));
  with_type(x, [&]<class T>(T*) {
    UPCYCLE_CUDA(gpu::launch({grid, dim3(kThreads), 0, native(stream)}, logits_backward<T>, parts,
                             static_cast<T*>(dx.data), dx.row_stride, dlogits.as<float>(),
                             static_cast<const T*>(x.data), x.row_stride, static_cast<const T*>(weight.data), s.T,
                             s.H));
  });
  UPCYCLE_CUDA(gpu::launch({dim3(grid.x), dim3(kThreads), 0, native(stream)}, cuda::add_column_parts<kThreads>,
                           dweight.as<float>(), parts, count, s.H));
}

}  // namespace upcycle
