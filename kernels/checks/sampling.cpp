#include "kernels/checks/sampling.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {

SamplingSizes check_sample_tokens(const Tensor& tokens, const Tensor& logits, std::int64_t vocabulary,
                                  const SamplingRows& rows) {
  UPCYCLE_CHECK(logits.rank == 3, "sample_tokens: logits are {}, expected fp32 (parts, rows, V)", logits.describe());
  const SamplingSizes z{logits.shape[0], logits.shape[1], logits.shape[2]};
  check_tensor("sample_tokens: logits", logits, DType::F32, {z.parts, z.rows, z.V});
  UPCYCLE_CHECK(vocabulary >= 1 && vocabulary <= z.parts * z.V && vocabulary <= INT32_MAX,
                "sample_tokens: a vocabulary of {} in logits {}", vocabulary, logits.describe());
  check_tensor("sample_tokens: tokens", tokens, DType::I32, {z.rows});
  check_tensor("sample_tokens: temperature", rows.temperature, DType::F32, {z.rows});
  check_tensor("sample_tokens: top_k", rows.top_k, DType::I32, {z.rows});
  check_tensor("sample_tokens: top_p", rows.top_p, DType::F32, {z.rows});
  check_tensor("sample_tokens: uniform", rows.uniform, DType::F32, {z.rows});
  return z;
}

}  // namespace upcycle
