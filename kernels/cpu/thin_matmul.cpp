#include "kernels/cpu/thin_matmul.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/check.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kItemColumns = 64;        // of C, that a thread takes at a time
constexpr std::int64_t kBlockBytes = 24 << 10;   // of B: half of a first-level cache
constexpr std::int64_t kParallelFrom = 1 << 18;  // see worth_threads
constexpr std::int64_t kRowsOfReading = 4;       // reading B takes about as long as multiplying it by so many rows

// Every path, whatever instructions the rest of the program is compiled for: the processor chooses when it runs.
namespace avx2 {
#define THIN_TARGET "avx2,fma"
#define THIN_LANES 8
#define THIN_DOT 0
#include "kernels/cpu/thin_kernel.inc"
}  // namespace avx2
namespace avx512 {
#define THIN_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#define THIN_LANES 16
#define THIN_DOT 0
#include "kernels/cpu/thin_kernel.inc"
}  // namespace avx512
namespace avx512_bf16 {
#define THIN_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define THIN_LANES 16
#define THIN_DOT 1
#include "kernels/cpu/thin_kernel.inc"
}  // namespace avx512_bf16

template <class T, class C>
using Columns = void (*)(const GemmShape&, std::int64_t, C*, const T*, const T*, std::int64_t, std::int64_t);

template <class T, class C>
Columns<T, C> columns_for(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::Avx2:
      return avx2::columns_of<T, C>;
    case CpuIsa::Avx512:
      return avx512::columns_of<T, C>;
    case CpuIsa::Avx512Bf16:
      break;
  }
  return avx512_bf16::columns_of<T, C>;
}

// The rows of each segment that is multiplied here.
struct Segments {
  std::span<const std::int64_t> offsets;
  std::int64_t most;

  std::int64_t count() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t begin(std::int64_t e) const { return offsets[static_cast<std::size_t>(e)]; }
  std::int64_t rows(std::int64_t e) const {
    const std::int64_t all = begin(e + 1) - begin(e);
    return all <= most ? all : 0;
  }
};

// Below, waking threads costs more than the work.
bool worth_threads(const GemmShape& s, const Segments& segments) {
  std::int64_t rows = 0;
  for (std::int64_t e = 0; e < segments.count(); ++e)
    if (const std::int64_t here = segments.rows(e); here > 0) rows += here + kRowsOfReading;
  return rows * s.n * s.k >= kParallelFrom;
}

template <class T, class C>
void multiply(CpuIsa isa, const GemmShape& s, const Segments& segments, std::int64_t matrix_stride, C* c, const T* a,
              const T* b) {
  const Columns<T, C> columns = columns_for<T, C>(isa);
  const std::int64_t items = (s.n + kItemColumns - 1) / kItemColumns, count = segments.count() * items;
  // A thread that has lost its core delays the others by one item.
#pragma omp parallel for schedule(dynamic) if (worth_threads(s, segments))
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t e = i / items, begin = i % items * kItemColumns, row = segments.begin(e);
    if (const std::int64_t rows = segments.rows(e); rows > 0)
      columns(s, rows, c + row * s.ldc, a + row * s.lda, b + e * matrix_stride, begin,
              std::min(begin + kItemColumns, s.n));
  }
}

}  // namespace

void thin_matmul(CpuIsa isa, const GemmShape& s, std::span<const std::int64_t> offsets, std::int64_t matrix_stride,
                 void* c, const void* a, const void* b) {
  UPCYCLE_CHECK(s.kind == MatmulKind::NT && s.store == Store::Overwrite && !offsets.empty(),
                "a thin product is NT, overwrites and has a segment");
  const auto run = [&]<class T, class C>(const T* x, C* y) {
    multiply(isa, s, Segments{offsets, thin_rows(isa, s.ab)}, matrix_stride, y, x, static_cast<const T*>(b));
  };
  if (s.ab == DType::F32)
    run(static_cast<const float*>(a), static_cast<float*>(c));
  else if (s.c == DType::F32)
    run(static_cast<const bf16*>(a), static_cast<float*>(c));
  else
    run(static_cast<const bf16*>(a), static_cast<bf16*>(c));
}

}  // namespace upcycle
