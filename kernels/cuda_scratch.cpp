#include "kernels/cuda_scratch.h"

#include <algorithm>

namespace upcycle::cuda::scratch {

std::size_t matmul_bytes(const OpLimits&) { return kGemmWorkspaceBytes; }
std::size_t grouped_matmul_bytes(const OpLimits&) { return kGemmWorkspaceBytes; }
std::size_t embedding_backward_bytes(const OpLimits& limits) { return token_sort(limits.T); }
std::size_t rms_norm_backward_bytes(const OpLimits& limits) { return norm_parts(limits.H); }
std::size_t bias_backward_bytes(const OpLimits& limits) { return column_parts(limits.bias); }
std::size_t head_norm_backward_bytes(const OpLimits& limits) { return column_parts(limits.head_norm); }
std::size_t gate_logits_backward_bytes(const OpLimits& limits) { return norm_parts(limits.H); }
std::size_t attention_forward_bytes(const OpLimits&) { return 0; }
std::size_t attention_backward_bytes(const OpLimits& limits) { return attention_delta(limits.T, limits.N); }
std::size_t paged_attention_bytes(const OpLimits& limits) {
  return paged_attention(limits.sequences, limits.N, limits.D, limits.keys);
}
std::size_t sample_tokens_bytes(const OpLimits&) { return 0; }
std::size_t linear_xent_stats_bytes(const OpLimits& limits) {
  return limits.V == 0 ? 0 : place_xent_scratch(kXentCut, nullptr, limits.T, limits.V, limits.H, limits.dtype).bytes;
}
std::size_t linear_xent_backward_bytes(const OpLimits& limits) { return linear_xent_stats_bytes(limits); }
std::size_t router_stats_bytes(const OpLimits& limits) {
  return static_cast<std::size_t>(kRouterStatsBlocks * (2 * limits.E + 2)) * sizeof(double);
}
std::size_t sort_by_expert_bytes(const OpLimits& limits) {
  return static_cast<std::size_t>(kSortParts * limits.E) * sizeof(std::int32_t);
}
std::size_t sum_squares_bytes(const OpLimits&) { return kSumSquaresBlocks * sizeof(double); }

std::size_t most_bytes(const OpLimits& limits) {
  std::size_t most = 0;
#define UPCYCLE_OP(name, ...)
#define UPCYCLE_OP_WITH_SCRATCH(name, ...) most = std::max(most, name##_bytes(limits));
#include "kernels/ops.inc"
  return most;
}

}  // namespace upcycle::cuda::scratch
