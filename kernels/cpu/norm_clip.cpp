#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace {

// Block size, from the tensor's size only: at most kMostBlocks blocks, so that the workspace does not grow with the
// tensor, each of at least kLeastBlock elements.
constexpr std::int64_t kMostBlocks = 1024;
constexpr std::int64_t kLeastBlock = 4096;

double sum_of_block(const float* x, std::int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

std::size_t CpuOps::sum_squares_workspace(const OpLimits&) { return kMostBlocks * sizeof(double); }

void CpuOps::sum_squares(Stream&, Workspace workspace, const Tensor& out, const Tensor& x) {
  const std::int64_t n = check_sum_squares(out, x);
  const std::int64_t per_block = std::max(kLeastBlock, ((n + kMostBlocks - 1) / kMostBlocks + 15) / 16 * 16);
  const std::int64_t blocks = (n + per_block - 1) / per_block;
  const std::size_t needed = static_cast<std::size_t>(blocks) * sizeof(double);
  check_workspace("sum_squares", workspace, needed);
  double* const part = static_cast<double*>(workspace.data);
  const float* const in = x.as<float>();
#pragma omp parallel for schedule(static) if (blocks > 8)
  for (std::int64_t b = 0; b < blocks; ++b)
    part[b] = sum_of_block(in + b * per_block, std::min(per_block, n - b * per_block));
  double sum = 0;
  for (std::int64_t b = 0; b < blocks; ++b) sum += part[b];
  *out.as<double>() += sum;
}

// A NaN norm gives a NaN scale: clipping must not hide it from the step, which stops on it.
void CpuOps::clip_scale(Stream&, const Tensor& scale, const Tensor& sum_squares, float max_norm) {
  check_clip_scale(scale, sum_squares);
  const double ratio = static_cast<double>(max_norm) / (std::sqrt(*sum_squares.as<double>()) + 1e-6);
  *scale.as<float>() = max_norm <= 0 || ratio >= 1 ? 1.0f : static_cast<float>(ratio);
}

}  // namespace upcycle
