#include "kernels/check.h"
#include "kernels/checks/bias.h"
#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

template <class T, int N>
__global__ void forward(RowGrid grid, T* x, std::int64_t stride, const T* bias) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  T* place = x + at.row * stride + at.group * N;
  float f[N], b[N];
  Access<T, N>::load(f, place);
  Access<T, N>::load(b, bias + at.group * N);
#pragma unroll
  for (int i = 0; i < N; ++i) f[i] += b[i];
  Access<T, N>::store(place, f);
}

template <class T>
struct Gradient {
  const T* dout;
  std::int64_t stride;
  __device__ float operator()(std::int64_t row, std::int64_t column) const {
    return cuda::to_float(dout[row * stride + column]);
  }
};

}  // namespace

void CudaOps::add_bias(Stream& stream, const Tensor& x, const Tensor& bias) {
  check_add_bias(x, bias);
  with_type(x, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = whole_vectors(x) && whole_vectors(bias);
    launch_rows("add_bias", stream, x.rows(), whole ? x.columns() / N : x.columns(),
                whole ? forward<T, N> : forward<T, 1>, static_cast<T*>(x.data), x.row_stride,
                static_cast<const T*>(bias.data));
  });
}

void CudaOps::bias_backward(Stream& stream, Workspace workspace, const Tensor& dbias, const Tensor& dout) {
  check_bias_backward(dbias, dout);
  check_workspace("bias_backward", workspace, scratch::column_parts(dout.columns()));
  with_type(dout, [&]<class T>(T*) {
    add_column_sums(stream, dbias.as<float>(), static_cast<float*>(workspace.data), dout.rows(), dout.columns(),
                    Gradient<T>{static_cast<const T*>(dout.data), dout.row_stride});
  });
}

}  // namespace upcycle
