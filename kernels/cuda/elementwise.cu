#include "kernels/checks/elementwise.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// fill, convert, scale and add. Groups have kGroup elements if all rows begin at multiples of 16 bytes (the last of a
// row may be shorter), else one.
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kGroup = 8;

__device__ __forceinline__ float get(const float* p) { return *p; }
__device__ __forceinline__ float get(const __nv_bfloat16* p) { return to_float(*p); }
__device__ __forceinline__ double get(const double* p) { return *p; }
template <class From>
__device__ __forceinline__ void put(float* p, From x) {
  *p = static_cast<float>(x);
}
template <class From>
__device__ __forceinline__ void put(double* p, From x) {
  *p = static_cast<double>(x);
}
__device__ __forceinline__ void put(__nv_bfloat16* p, float x) { *p = from_float<__nv_bfloat16>(x); }
// Via fp32 with rounding to odd, so that the second rounding knows on which side of a tie the fp64 value was.
__device__ __forceinline__ void put(__nv_bfloat16* p, double x) {
  const float f = static_cast<float>(x);
  const double back = static_cast<double>(f);
  unsigned u = __float_as_uint(f);
  const bool inexact = back != x && x == x;
  const bool away = inexact && (x < 0 ? back < x : back > x);
  u -= away ? 1u : 0u;
  u |= inexact ? 1u : 0u;
  put(p, __uint_as_float(u));
}

// A thread's part of one row: `group` elements from `column` on, or fewer at the row's end.
template <int N, class Whole, class One>
__device__ __forceinline__ void for_group(const RowGrid& grid, std::int64_t columns, const Whole& whole,
                                          const One& one) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t begin = at.group * N;
  if (N > 1 && begin + N <= columns) {
    whole(at.row, begin);
  } else {
#pragma unroll 1
    for (std::int64_t i = begin; i < begin + N && i < columns; ++i) one(at.row, i);
  }
}

// ---- fill: `Bits` is an unsigned integer of the element's size
template <class Bits, int N>
__global__ void fill_kernel(RowGrid grid, Bits* out, std::int64_t stride, std::int64_t columns, Bits value,
                            uint4 four) {
  for_group<N>(
      grid, columns, [&](std::int64_t row, std::int64_t i) { gpu::store_global16(out + row * stride + i, four); },
      [&](std::int64_t row, std::int64_t i) { out[row * stride + i] = value; });
}

template <class Bits, class Value>
void fill_with(Stream& stream, const Tensor& out, Value value) {
  static_assert(sizeof(Bits) == sizeof(Value));
  constexpr int N = 16 / sizeof(Bits);
  const Extent extent = check_elementwise("fill", {&out});
  const auto bits = std::bit_cast<Bits>(value);
  std::array<Bits, N> all;
  all.fill(bits);
  const auto run = [&](auto kernel, std::int64_t n) {
    launch_rows("fill", stream, extent.rows, (extent.columns + n - 1) / n, kernel, static_cast<Bits*>(out.data),
                out.row_stride, extent.columns, bits, std::bit_cast<uint4>(all));
  };
  if (rows_aligned(out, extent))
    run(fill_kernel<Bits, N>, N);
  else
    run(fill_kernel<Bits, 1>, 1);
}

// ---- convert
template <class Bits, int N>
__global__ void copy_kernel(RowGrid grid, Bits* out, std::int64_t out_stride, const Bits* x, std::int64_t x_stride,
                            std::int64_t columns) {
  for_group<N>(
      grid, columns,
      [&](std::int64_t row, std::int64_t i) {
        gpu::store_global16(out + row * out_stride + i, *reinterpret_cast<const uint4*>(x + row * x_stride + i));
      },
      [&](std::int64_t row, std::int64_t i) { out[row * out_stride + i] = x[row * x_stride + i]; });
}

template <class To, class From, int N>
__global__ void convert_kernel(RowGrid grid, To* out, std::int64_t out_stride, const From* x, std::int64_t x_stride,
                               std::int64_t columns) {
  for_group<N>(
      grid, columns,
      [&](std::int64_t row, std::int64_t i) {
        if constexpr (N > 1) {
          float f[N];
          Access<From, N>::load(f, x + row * x_stride + i);
          Access<To, N>::store(out + row * out_stride + i, f);
        }
      },
      [&](std::int64_t row, std::int64_t i) { put(out + row * out_stride + i, get(x + row * x_stride + i)); });
}

template <class To, class From>
void launch_convert(Stream& stream, Extent extent, const Tensor& out, const Tensor& x,
                    void (*whole)(RowGrid, To*, std::int64_t, const From*, std::int64_t, std::int64_t), int n,
                    void (*one)(RowGrid, To*, std::int64_t, const From*, std::int64_t, std::int64_t)) {
  const bool aligned = rows_aligned(out, extent) && rows_aligned(x, extent);
  const std::int64_t per = aligned ? n : 1;
  launch_rows("convert", stream, extent.rows, (extent.columns + per - 1) / per, aligned ? whole : one,
              static_cast<To*>(out.data), out.row_stride, static_cast<const From*>(x.data), x.row_stride,
              extent.columns);
}

template <class Bits>
void copy_as(Stream& stream, Extent extent, const Tensor& out, const Tensor& x) {
  constexpr int N = 16 / sizeof(Bits);
  launch_convert<Bits, Bits>(stream, extent, out, x, copy_kernel<Bits, N>, N, copy_kernel<Bits, 1>);
}

template <class To, class From>
void convert_as(Stream& stream, Extent extent, const Tensor& out, const Tensor& x) {
  constexpr int N = std::is_same_v<To, double> || std::is_same_v<From, double> ? 1 : kGroup;
  launch_convert<To, From>(stream, extent, out, x, convert_kernel<To, From, N>, N, convert_kernel<To, From, 1>);
}

// ---- scale
template <class T, int N>
__global__ void scale_kernel(RowGrid grid, T* out, std::int64_t out_stride, const T* x, std::int64_t x_stride,
                             std::int64_t columns, float factor) {
  for_group<N>(
      grid, columns,
      [&](std::int64_t row, std::int64_t i) {
        if constexpr (N > 1) {
          float f[N];
          Access<T, N>::load(f, x + row * x_stride + i);
#pragma unroll
          for (int j = 0; j < N; ++j) f[j] *= factor;
          Access<T, N>::store(out + row * out_stride + i, f);
        }
      },
      [&](std::int64_t row, std::int64_t i) { put(out + row * out_stride + i, get(x + row * x_stride + i) * factor); });
}

// ---- add
template <class To, class A, class B, int N>
__global__ void add_kernel(RowGrid grid, To* out, std::int64_t out_stride, const A* a, std::int64_t a_stride,
                           const B* b, std::int64_t b_stride, std::int64_t columns) {
  for_group<N>(
      grid, columns,
      [&](std::int64_t row, std::int64_t i) {
        if constexpr (N > 1) {
          float x[N], y[N];
          Access<A, N>::load(x, a + row * a_stride + i);
          Access<B, N>::load(y, b + row * b_stride + i);
#pragma unroll
          for (int j = 0; j < N; ++j) x[j] += y[j];
          Access<To, N>::store(out + row * out_stride + i, x);
        }
      },
      [&](std::int64_t row, std::int64_t i) {
        put(out + row * out_stride + i, get(a + row * a_stride + i) + get(b + row * b_stride + i));
      });
}

template <class To, class A, class B>
void add_as(Stream& stream, Extent extent, const Tensor& out, const Tensor& a, const Tensor& b) {
  constexpr int N = std::is_same_v<To, double> ? 1 : kGroup;
  const bool aligned = rows_aligned(out, extent) && rows_aligned(a, extent) && rows_aligned(b, extent);
  const std::int64_t per = aligned ? N : 1;
  launch_rows("add", stream, extent.rows, (extent.columns + per - 1) / per,
              aligned ? add_kernel<To, A, B, N> : add_kernel<To, A, B, 1>, static_cast<To*>(out.data), out.row_stride,
              static_cast<const A*>(a.data), a.row_stride, static_cast<const B*>(b.data), b.row_stride, extent.columns);
}

}  // namespace

void CudaOps::fill(Stream& stream, const Tensor& out, float value) {
  switch (out.dtype) {
    case DType::F32:
      return fill_with<std::uint32_t>(stream, out, value);
    case DType::BF16:
      return fill_with<std::uint16_t>(stream, out, to_bf16(value));
    case DType::F64:
      return fill_with<std::uint64_t>(stream, out, static_cast<double>(value));
    case DType::I32:
      return fill_with<std::uint32_t>(stream, out, static_cast<std::int32_t>(value));
    case DType::I64:
      return fill_with<std::uint64_t>(stream, out, static_cast<std::int64_t>(value));
  }
}

void CudaOps::convert(Stream& stream, const Tensor& out, const Tensor& x) {
  const Extent extent = check_convert(out, x);
  if (out.dtype == x.dtype) {
    if (x.dtype == DType::F64) return copy_as<std::uint64_t>(stream, extent, out, x);
    if (x.dtype == DType::F32) return copy_as<std::uint32_t>(stream, extent, out, x);
    return copy_as<std::uint16_t>(stream, extent, out, x);
  }
  if (x.dtype == DType::F64)
    return with_type(out, [&]<class To>(To*) { convert_as<To, double>(stream, extent, out, x); });
  if (out.dtype == DType::F64)
    return with_type(x, [&]<class From>(From*) { convert_as<double, From>(stream, extent, out, x); });
  if (x.dtype == DType::F32) return convert_as<__nv_bfloat16, float>(stream, extent, out, x);
  return convert_as<float, __nv_bfloat16>(stream, extent, out, x);
}

void CudaOps::scale(Stream& stream, const Tensor& out, const Tensor& x, float factor) {
  const Extent extent = check_scale(out, x);
  const bool aligned = rows_aligned(out, extent) && rows_aligned(x, extent);
  const std::int64_t per = aligned ? kGroup : 1;
  with_type(x, [&]<class T>(T*) {
    launch_rows("scale", stream, extent.rows, (extent.columns + per - 1) / per,
                aligned ? scale_kernel<T, kGroup> : scale_kernel<T, 1>, static_cast<T*>(out.data), out.row_stride,
                static_cast<const T*>(x.data), x.row_stride, extent.columns, factor);
  });
}

void CudaOps::add(Stream& stream, const Tensor& out, const Tensor& a, const Tensor& b) {
  const Extent extent = check_add(out, a, b);
  if (out.dtype == DType::F64) return add_as<double, double, double>(stream, extent, out, a, b);
  with_type(out, [&]<class To>(To*) {
    with_type(a, [&]<class A>(A*) { with_type(b, [&]<class B>(B*) { add_as<To, A, B>(stream, extent, out, a, b); }); });
  });
}

}  // namespace upcycle
