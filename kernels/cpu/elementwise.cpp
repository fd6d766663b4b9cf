#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/checks/elementwise.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// Rows may be strided (a block of columns); dense tensors are one long row. A thread takes whole blocks, so the code
// that computes an element (vectorised or remainder) does not depend on the number of threads.
namespace upcycle {
namespace {

constexpr std::int64_t kBlock = 1 << 14;  // elements
constexpr std::int64_t kParallelFrom = 1 << 15;

inline float get(const float* p) { return load(p); }
inline float get(const bf16* p) { return load(p); }
inline double get(const double* p) { return *p; }
template <class From>
inline void put(float* p, From x) {
  *p = static_cast<float>(x);
}
template <class From>
inline void put(double* p, From x) {
  *p = static_cast<double>(x);
}
inline void put(bf16* p, float x) { store(p, x); }
// Via fp32 with rounding to odd, so that the second rounding knows on which side of a tie the fp64 value was.
inline void put(bf16* p, double x) {
  float f = static_cast<float>(x);
  const double back = static_cast<double>(f);
  std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  const bool inexact = back != x && x == x;
  const bool away = inexact && (x < 0 ? back < x : back > x);
  u -= away ? 1u : 0u;
  u |= inexact ? 1u : 0u;
  store(p, std::bit_cast<float>(u));
}

// f(row, first column, width) over all blocks.
template <class F>
void for_blocks(Extent extent, const F& f) {
  const std::int64_t across = (extent.columns + kBlock - 1) / kBlock, blocks = extent.rows * across;
#pragma omp parallel for schedule(static) if (extent.rows * extent.columns >= kParallelFrom)
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t begin = b % across * kBlock;
    f(b / across, begin, std::min(kBlock, extent.columns - begin));
  }
}

template <class To>
void fill_with(const Tensor& out, To value) {
  To* const to = out.as<To>();
  const bool zero = std::bit_cast<std::array<char, sizeof(To)>>(value) == std::array<char, sizeof(To)>{};
  for_blocks(check_elementwise("fill", {&out}), [&](std::int64_t row, std::int64_t begin, std::int64_t width) {
    To* const y = to + row * out.row_stride + begin;
    if (zero)
      std::memset(static_cast<void*>(y), 0, static_cast<std::size_t>(width) * sizeof(To));
    else
      std::fill(y, y + width, value);
  });
}

template <class To, class From>
void convert_as(Extent extent, const Tensor& out, const Tensor& x) {
  To* const to = out.as<To>();
  const From* const from = x.as<From>();
  for_blocks(extent, [&](std::int64_t row, std::int64_t begin, std::int64_t width) {
    To* const y = to + row * out.row_stride + begin;
    const From* const in = from + row * x.row_stride + begin;
    if constexpr (std::is_same_v<To, From>) {
      std::memcpy(y, in, static_cast<std::size_t>(width) * sizeof(To));
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) put(y + i, get(in + i));
    }
  });
}

template <class To>
void convert_to(Extent extent, const Tensor& out, const Tensor& x) {
  switch (x.dtype) {
    case DType::F32:
      return convert_as<To, float>(extent, out, x);
    case DType::BF16:
      return convert_as<To, bf16>(extent, out, x);
    default:
      return convert_as<To, double>(extent, out, x);
  }
}

template <class To, class A, class B>
void add_as(Extent extent, const Tensor& out, const Tensor& a, const Tensor& b) {
  To* const to = out.as<To>();
  const A* const as = a.as<A>();
  const B* const bs = b.as<B>();
  for_blocks(extent, [&](std::int64_t row, std::int64_t begin, std::int64_t width) {
    To* const y = to + row * out.row_stride + begin;
    const A* const x = as + row * a.row_stride + begin;
    const B* const z = bs + row * b.row_stride + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) put(y + i, get(x + i) + get(z + i));
  });
}

template <class T>
void scale_as(Extent extent, const Tensor& out, const Tensor& x, float factor) {
  T* const to = out.as<T>();
  const T* const from = x.as<T>();
  for_blocks(extent, [&](std::int64_t row, std::int64_t begin, std::int64_t width) {
    T* const y = to + row * out.row_stride + begin;
    const T* const in = from + row * x.row_stride + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) put(y + i, get(in + i) * factor);
  });
}

template <class To, class A>
void add_to(Extent extent, const Tensor& out, const Tensor& a, const Tensor& b) {
  if (b.dtype == DType::BF16) return add_as<To, A, bf16>(extent, out, a, b);
  add_as<To, A, float>(extent, out, a, b);
}

template <class To>
void add_to(Extent extent, const Tensor& out, const Tensor& a, const Tensor& b) {
  if (a.dtype == DType::BF16) return add_to<To, bf16>(extent, out, a, b);
  add_to<To, float>(extent, out, a, b);
}

}  // namespace

void CpuOps::fill(Stream&, const Tensor& out, float value) {
  switch (out.dtype) {
    case DType::F32:
      return fill_with<float>(out, value);
    case DType::BF16:
      return fill_with<bf16>(out, to_bf16(value));
    case DType::F64:
      return fill_with<double>(out, static_cast<double>(value));
    case DType::I32:
      return fill_with<std::int32_t>(out, static_cast<std::int32_t>(value));
    case DType::I64:
      return fill_with<std::int64_t>(out, static_cast<std::int64_t>(value));
  }
}

void CpuOps::convert(Stream&, const Tensor& out, const Tensor& x) {
  const Extent extent = check_convert(out, x);
  switch (out.dtype) {
    case DType::F32:
      return convert_to<float>(extent, out, x);
    case DType::BF16:
      return convert_to<bf16>(extent, out, x);
    default:
      return convert_to<double>(extent, out, x);
  }
}

void CpuOps::scale(Stream&, const Tensor& out, const Tensor& x, float factor) {
  const Extent extent = check_scale(out, x);
  if (x.dtype == DType::BF16) return scale_as<bf16>(extent, out, x, factor);
  scale_as<float>(extent, out, x, factor);
}

void CpuOps::add(Stream&, const Tensor& out, const Tensor& a, const Tensor& b) {
  const Extent extent = check_add(out, a, b);
  if (out.dtype == DType::F64) return add_as<double, double, double>(extent, out, a, b);
  if (out.dtype == DType::BF16) return add_to<bf16>(extent, out, a, b);
  add_to<float>(extent, out, a, b);
}

}  // namespace upcycle
