#include "kernels/checks/rope.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// Rotary embedding (arXiv 2104.09864), half-split: element i of a head is rotated with element i + R/2.
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 16;  // elements; below, waking threads costs more than the work

template <class T>
void rotate(const Tensor& x, std::int64_t D, std::int64_t R, const float* table, const std::int32_t* positions,
            float direction) {
  const std::int64_t rows = x.rows(), heads = x.columns() / D, half = R / 2;
  T* data = x.as<T>();
#pragma omp parallel for schedule(dynamic, 4) if (x.size() >= kParallelFrom)
  for (std::int64_t t = 0; t < rows; ++t) {
    const float* cosine = table + positions[t] * R;
    const float* sine = cosine + half;
    for (std::int64_t n = 0; n < heads; ++n) {
      T* first = data + t * x.row_stride + n * D;
      T* second = first + half;
#pragma omp simd
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = load(first + i), b = load(second + i), s = sine[i] * direction;
        store(first + i, a * cosine[i] - b * s);
        store(second + i, b * cosine[i] + a * s);
      }
    }
  }
}

}  // namespace

void CpuOps::rope(Stream&, const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions,
                  bool inverse) {
  const RopeSizes z = check_rope(x, D, table, positions);
  const std::int32_t* p = positions.as<std::int32_t>();
  check_indices("rope: positions", p, z.T, 0, z.positions);
  const float direction = inverse ? -1.0f : 1.0f;
  if (x.dtype == DType::BF16) {
    rotate<bf16>(x, D, z.R, table.as<float>(), p, direction);
  } else {
    rotate<float>(x, D, z.R, table.as<float>(), p, direction);
  }
}

}  // namespace upcycle
