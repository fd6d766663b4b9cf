#include "kernels/checks/router.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

RouterSizes sizes_of(const char* op, const char* name, const Tensor& t, const Tensor& experts) {
  UPCYCLE_CHECK(t.rank == 2 && experts.rank == 2, "{}: {} {} and experts {}, expected (T, E) and (T, k)", op, name,
                t.describe(), experts.describe());
  return {t.shape[0], t.shape[1], experts.shape[1]};
}

void check_chosen(const char* op, const RouterSizes& z) {
  UPCYCLE_CHECK(z.k >= 1 && z.k <= z.E, "{}: {} experts a token of {}, expected 1 to {}", op, z.k, z.E, z.E);
}

}  // namespace

RouterSizes check_router(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                         const Tensor& lse, const Tensor& logits) {
  const RouterSizes z = sizes_of(op, "logits", logits, experts);
  check_chosen(op, z);
  check_tensor("router: logits", logits, DType::F32, {z.T, z.E});
  check_tensor("router: probs", probs, DType::F32, {z.T, z.E});
  check_tensor("router: experts", experts, DType::I32, {z.T, z.k});
  check_tensor("router: weights", weights, DType::F32, {z.T, z.k});
  check_tensor("router: lse", lse, DType::F32, {z.T});
  return z;
}

RouterSizes check_router_stats(const Tensor& stats, const Tensor& probs, const Tensor& experts, const Tensor& lse) {
  const RouterSizes z = sizes_of("router_stats", "probs", probs, experts);
  check_tensor("router_stats: stats", stats, DType::F64, {2 * z.E + 2});
  check_tensor("router_stats: probs", probs, DType::F32, {z.T, z.E});
  check_tensor("router_stats: experts", experts, DType::I32, {z.T, z.k});
  check_tensor("router_stats: lse", lse, DType::F32, {z.T});
  return z;
}

std::int64_t check_router_losses(const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                                 const Tensor& counted, std::int64_t T, std::int64_t k) {
  const std::int64_t E = expert_scale.rows();
  check_tensor("router_losses: expert_scale", expert_scale, DType::F32, {E});
  check_tensor("router_losses: stats", stats, DType::F64, {2 * E + 2});
  check_flat("router_losses: metrics", metrics, DType::F64, 4 + E);
  if (counted) check_tensor("router_losses: counted", counted, DType::F64, {E});
  UPCYCLE_CHECK(E >= 1 && T >= 1 && k >= 1, "router_losses: E {}, T {}, k {}, expected at least 1", E, T, k);
  return E;
}

RouterSizes check_router_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                  const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                  const Tensor& expert_scale) {
  const RouterSizes z = sizes_of("router_backward", "probs", probs, experts);
  check_chosen("router_backward", z);
  check_tensor("router_backward: dlogits", dlogits, DType::F32, {z.T, z.E});
  check_tensor("router_backward: dweights", dweights, DType::F32, {z.T, z.k});
  check_tensor("router_backward: probs", probs, DType::F32, {z.T, z.E});
  check_tensor("router_backward: experts", experts, DType::I32, {z.T, z.k});
  check_tensor("router_backward: weights", weights, DType::F32, {z.T, z.k});
  check_tensor("router_backward: lse", lse, DType::F32, {z.T});
  check_tensor("router_backward: expert_scale", expert_scale, DType::F32, {z.E});
  return z;
}

}  // namespace upcycle
