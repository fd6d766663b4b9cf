#include <algorithm>

#include "kernels/check.h"
#include "kernels/checks/expert_rows.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 1 << 16;  // elements
constexpr std::int64_t kBlock = 512;             // columns whose fp32 sums stay in L1 cache

template <class Out, class Row>
void combine(const Tensor& out, const Tensor& rows, const std::int32_t* slot, const float* weights, std::int64_t k,
             Store store_kind) {
  const std::int64_t T = out.shape[0], H = out.shape[1];
  Out* const to = out.as<Out>();
  const Row* const in = rows.as<Row>();
#pragma omp parallel for schedule(static) if (T * H * k >= kParallelFrom)
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t begin = 0; begin < H; begin += kBlock) {
      const std::int64_t width = std::min(kBlock, H - begin);
      Out* const y = to + t * out.row_stride + begin;
      float sum[kBlock] = {};
      for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
        if (slot[j] < 0) continue;
        const Row* const x = in + slot[j] * rows.row_stride + begin;
        const float w = weights == nullptr ? 1.0f : weights[j];
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) sum[i] += w * load(x + i);
      }
      if (store_kind == Store::Accumulate) {
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) store(y + i, load(y + i) + sum[i]);
      } else {
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) store(y + i, sum[i]);
      }
    }
  }
}

// One pass over the row for both results. drows may alias rows: each element is read before it is written.
template <class Out, class Row>
float scale_and_dot(Row* drow, const Out* dout, const Row* row, float w, std::int64_t H) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t i = 0; i < H; ++i) {
    const float g = load(dout + i);
    dot += g * load(row + i);
    store(drow + i, w * g);
  }
  return dot;
}

template <class Out, class Row>
void combine_backward(const Tensor& drows, float* dweights, const Tensor& dout, const Tensor& rows,
                      const std::int32_t* slot, const float* weights, std::int64_t k) {
  const std::int64_t T = dout.shape[0], H = dout.shape[1];
  Row* const to = drows.as<Row>();
  const Out* const g = dout.as<Out>();
  const Row* const in = rows.as<Row>();
#pragma omp parallel for schedule(static) if (T * H * k >= kParallelFrom)
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t j = t * k; j < (t + 1) * k; ++j)
      dweights[j] = slot[j] < 0 ? 0.0f
                                : scale_and_dot(to + slot[j] * drows.row_stride, g + t * dout.row_stride,
                                                in + slot[j] * rows.row_stride, weights[j], H);
}

}  // namespace

void CpuOps::combine_rows(Stream&, const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights,
                          Store store_kind) {
  const CombineSizes z = check_combine_rows(out, rows, slot, weights);
  const float* w = weights ? weights.as<float>() : nullptr;
  const std::int32_t* s = slot.as<std::int32_t>();
  check_indices("combine_rows: slot", s, slot.size(), -1, z.R);
  const bool bf16_out = out.dtype == DType::BF16, bf16_rows = rows.dtype == DType::BF16;
  if (bf16_out && bf16_rows)
    combine<bf16, bf16>(out, rows, s, w, z.k, store_kind);
  else if (bf16_out)
    combine<bf16, float>(out, rows, s, w, z.k, store_kind);
  else if (bf16_rows)
    combine<float, bf16>(out, rows, s, w, z.k, store_kind);
  else
    combine<float, float>(out, rows, s, w, z.k, store_kind);
}

void CpuOps::combine_rows_backward(Stream&, const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                                   const Tensor& rows, const Tensor& slot, const Tensor& weights) {
  const CombineSizes z = check_combine_rows_backward(drows, dweights, dout, rows, slot, weights);
  const float* w = weights.as<float>();
  float* dw = dweights.as<float>();
  const std::int32_t* s = slot.as<std::int32_t>();
  check_indices("combine_rows: slot", s, slot.size(), -1, z.R);
  const bool bf16_out = dout.dtype == DType::BF16, bf16_rows = rows.dtype == DType::BF16;
  if (bf16_out && bf16_rows)
    combine_backward<bf16, bf16>(drows, dw, dout, rows, s, w, z.k);
  else if (bf16_out)
    combine_backward<bf16, float>(drows, dw, dout, rows, s, w, z.k);
  else if (bf16_rows)
    combine_backward<float, bf16>(drows, dw, dout, rows, s, w, z.k);
  else
    combine_backward<float, float>(drows, dw, dout, rows, s, w, z.k);
}

}  // namespace upcycle
