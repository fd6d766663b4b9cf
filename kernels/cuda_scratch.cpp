#include "kernels/cuda_scratch.h"

namespace upcycle::cuda::scratch {

Xent linear_xent(void* base, std::int64_t T, std::int64_t V, std::int64_t H, DType dtype) {
  std::size_t used = 0;
  const auto take = [&](std::size_t bytes) {
    void* const p = base == nullptr ? nullptr : static_cast<char*>(base) + used;
    used += (bytes + 255) / 256 * 256;
    return p;
  };
  const auto block = static_cast<std::size_t>(std::min(T, kXentTokens) * std::min(block_size(V, V), kXentVocab));
  Xent s{};
  s.logits = static_cast<float*>(take(block * sizeof(float)));
  s.dlogits = dtype == DType::F32 ? s.logits : take(block * size_of(dtype));
  s.dx = static_cast<float*>(dtype == DType::F32 ? nullptr : take(static_cast<std::size_t>(T * H) * sizeof(float)));
  s.gemm.bytes = kGemmWorkspaceBytes;
  s.gemm.data = take(s.gemm.bytes);
  s.bytes = used;
  return s;
}

std::size_t matmul_bytes(const OpLimits&) { return kGemmWorkspaceBytes; }
std::size_t grouped_matmul_bytes(const OpLimits&) { return kGemmWorkspaceBytes; }
std::size_t embedding_backward_bytes(const OpLimits& limits) { return token_sort(limits.T); }
std::size_t rms_norm_backward_bytes(const OpLimits& limits) { return norm_parts(limits.H); }
std::size_t attention_forward_bytes(const OpLimits&) { return 0; }
std::size_t attention_backward_bytes(const OpLimits& limits) { return attention_delta(limits.T, limits.N); }
std::size_t paged_attention_bytes(const OpLimits& limits) {
  return paged_attention(limits.sequences, limits.N, limits.D, limits.keys);
}
std::size_t sample_tokens_bytes(const OpLimits&) { return 0; }
std::size_t linear_xent_stats_bytes(const OpLimits& limits) {
  return limits.V == 0 ? 0 : linear_xent(nullptr, limits.T, limits.V, limits.H, limits.dtype).bytes;
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
