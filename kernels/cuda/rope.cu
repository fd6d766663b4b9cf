#include "core/check.h"
#include "kernels/checks/rope.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// Rotary embedding (arXiv 2104.09864), half-split: element i of a head is rotated with element i + R/2.
namespace upcycle {
namespace {

using namespace cuda;

// A group is N adjacent pairs of one head. A position outside the table makes the row NaN: the host can not check
// positions in device memory, and a finite result would hide the mistake.
template <class T, int N>
__global__ void rotate(RowGrid grid, T* x, std::int64_t stride, std::int64_t D, std::int64_t R, const float* table,
                       std::int64_t limit, const std::int32_t* positions, float direction) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const unsigned half = static_cast<unsigned>(R / 2), pair = static_cast<unsigned>(at.group) * N;
  T* first = x + at.row * stride + pair / half * D + pair % half;
  T* second = first + half;
  float a[N], b[N], c[N], s[N];
  Access<T, N>::load(a, first);
  Access<T, N>::load(b, second);
  const std::int64_t position = positions[at.row];
  if (position >= 0 && position < limit) {
    const float* cosine = table + position * R + pair % half;
    Access<float, N>::load(c, cosine);
    Access<float, N>::load(s, cosine + half);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) c[i] = s[i] = __int_as_float(0x7fffffff);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float sine = s[i] * direction, turned = fmaf(a[i], c[i], -(b[i] * sine));
    b[i] = fmaf(b[i], c[i], a[i] * sine);
    a[i] = turned;
  }
  Access<T, N>::store(first, a);
  Access<T, N>::store(second, b);
}

}  // namespace

void CudaOps::rope(Stream& stream, const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions,
                   bool inverse) {
  const RopeSizes z = check_rope(x, D, table, positions);
  UPCYCLE_CHECK(x.columns() < std::int64_t{1} << 31, "rope: rows of {} are too long", x.describe());
  const std::int64_t pairs = z.heads * (z.R / 2);
  with_type(x, [&]<class T>(T*) {
    constexpr int N = Vector<T>::N;
    const bool whole = z.R / 2 % N == 0 && D % N == 0 && whole_vectors(x) && whole_vectors(table);
    launch_rows("rope", stream, z.T, whole ? pairs / N : pairs, whole ? rotate<T, N> : rotate<T, 1>,
                static_cast<T*>(x.data), x.row_stride, D, z.R, table.as<float>(), z.positions,
                positions.as<std::int32_t>(), inverse ? -1.0f : 1.0f);
  });
}

}  // namespace upcycle
