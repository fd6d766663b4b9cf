#include "kernels/cpu/linear_xent.h"

#include <cmath>
#include <limits>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/linear_xent.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();  // the maximum over no logits

// Adds one row's block of logits to its running maximum and sum (arXiv 1805.02867).
void add_block(float* stats, const float* logits, std::int64_t columns, std::int64_t target) {
  float highest = stats[0];
#pragma omp simd reduction(max : highest)
  for (std::int64_t j = 0; j < columns; ++j) highest = logits[j] > highest ? logits[j] : highest;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < columns; ++j) sum += fast_exp(logits[j] - highest);
  stats[1] = stats[1] * fast_exp(stats[0] - highest) + sum;
  stats[0] = highest;
  if (target >= 0 && target < columns) stats[2] = logits[target];
}

}  // namespace

std::size_t CpuOps::linear_xent_stats_workspace(const OpLimits& limits) {
  return limits.V == 0 ? 0 : place_xent_scratch(xent_cut(), nullptr, limits.T, limits.V, limits.H, limits.dtype).bytes;
}

void CpuOps::linear_xent_stats(Stream& stream, Workspace workspace, const Tensor& stats, const Tensor& x,
                               const Tensor& weight, const Tensor& targets, std::int64_t vocab_begin,
                               std::int64_t vocab_valid) {
  const LinearXentSizes sizes = check_linear_xent_stats(stats, x, weight, targets, vocab_valid);
  const std::int64_t T = sizes.T, V = sizes.V, H = sizes.H;  // clang takes no bindings into parallel regions
  const XentScratch scratch = place_xent_scratch(xent_cut(), workspace.data, T, V, H, x.dtype);
  check_workspace("linear_xent_stats", workspace, scratch.bytes);
  float* const running = stats.as<float>();
  for (std::int64_t t = 0; t < T; ++t) {
    running[3 * t] = kNone;
    running[3 * t + 1] = running[3 * t + 2] = 0;
  }
  const std::int32_t* const target = targets.as<std::int32_t>();
  const XentCut cut = xent_cut();
  const std::int64_t vocab_block = block_size(vocab_valid, cut.vocab, cut.unit),
                     token_block = block_size(T, cut.tokens, cut.unit);
  for (std::int64_t v = 0; v < vocab_valid; v += vocab_block) {
    const std::int64_t columns = std::min(vocab_block, vocab_valid - v);
    const Tensor w = weight.slice_rows(v, v + columns);
    for (std::int64_t first = 0; first < T; first += token_block) {
      const std::int64_t rows = std::min(token_block, T - first);
      const Tensor block = x.slice_rows(first, first + rows);
      const GemmShape product{.kind = MatmulKind::NT,
                              .ab = x.dtype,
                              .m = rows,
                              .n = columns,
                              .k = H,
                              .lda = leading_dimension(block),
                              .ldb = leading_dimension(w),
                              .ldc = columns};
      gemms_->run(scratch.gemm, product, scratch.logits, block.data, w.data);
#pragma omp parallel for schedule(dynamic, 16)
      for (std::int64_t i = 0; i < rows; ++i)
        add_block(running + 3 * (first + i), scratch.logits + i * columns, columns,
                  target[first + i] - vocab_begin - v);
      stream.poll();
    }
  }
}

void CpuOps::xent_combine(Stream&, const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                          const Tensor& targets) {
  const XentCombineSizes sizes = check_xent_combine(nll, lse, loss_sum, stats, targets);
  const std::int64_t ranks = sizes.ranks, T = sizes.T;  // clang takes no bindings into parallel regions
  const float* const parts = stats.as<float>();
  const std::int32_t* const target = targets.as<std::int32_t>();
  double total = 0;  // in token order
  for (std::int64_t t = 0; t < T; ++t) {
    double highest = -std::numeric_limits<double>::infinity(), sum = 0, target_logit = 0;
    for (std::int64_t r = 0; r < ranks; ++r) highest = std::max(highest, static_cast<double>(parts[3 * (r * T + t)]));
    for (std::int64_t r = 0; r < ranks; ++r) {
      const float* const part = parts + 3 * (r * T + t);
      if (part[0] != kNone) sum += part[1] * std::exp(part[0] - highest);  // a shard with only padding has no maximum
      target_logit += part[2];
    }
    const double log_sum = highest + std::log(sum);
    lse.as<float>()[t] = static_cast<float>(log_sum);
    nll.as<float>()[t] = target[t] < 0 ? 0.0f : static_cast<float>(log_sum - target_logit);
    total += nll.as<float>()[t];
  }
  *loss_sum.as<double>() += total;
}

}  // namespace upcycle
