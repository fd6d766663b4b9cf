#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

// Small fp32 matrix products on tiles in cache, for attention. Uses GCC's portable vectors, in the processor's length.
namespace upcycle {

#ifdef __AVX512F__
inline constexpr int kLanes = 16;
inline constexpr int kTileVectors = 4;  // 6 x 4 accumulators fill 24 of 32 registers
#else
#ifdef __AVX__
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
inline constexpr int kTileVectors = 2;  // 6 x 2 of 16
#endif
inline constexpr int kTileRows = 6;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t IntVec __attribute__((vector_size(kLanes * 4)));

inline Vec load_vec(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_vec(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// C (m, n) = or += A (m, k) B (k, n). A's element (i, p) is a[i * a_row + p * a_k] (so A may be transposed); B and C
// are row-major with row lengths ldb, ldc; n is a multiple of kLanes.
void tile_matmul(int m, int n, int k, const float* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, const float* b,
                 std::ptrdiff_t ldb, float* c, std::ptrdiff_t ldc, bool accumulate);

}  // namespace upcycle
