#include "kernels/checks/optimizer.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

// What messages call an op's arguments: a step makes no texts.
struct Names {
  const char *op, *param, *master, *ties, *m, *v, *grad, *scale, *width;
};
#define NAMES(op) \
  Names { op, op ": param", op ": master", op ": ties", op ": m", op ": v", op ": grad", op ": scale", op ": rounding" }

void check_floats(const char* scope, const Tensor& t, std::int64_t n) {
  UPCYCLE_CHECK(t.dtype == DType::F32 || t.dtype == DType::BF16, "{} is {}, expected fp32 or bf16", scope,
                t.describe());
  check_flat(scope, t, t.dtype, n);
}

std::int64_t check_update(const Names& names, const UpdateTensors& t, const Tensor& scale, int moments) {
  const std::int64_t n = t.master.size();
  check_floats(names.param, t.param, n);
  check_flat(names.grad, t.grad, DType::F32, n);
  if (t.master.dtype == DType::BF16) {  // low halves
    check_flat(names.master, t.master, DType::BF16, n);
    check_flat(names.param, t.param, DType::BF16, n);
    check_flat(names.ties, t.ties, DType::I32, (n + 31) / 32);
  } else {
    check_flat(names.master, t.master, DType::F32, n);
  }
  if (moments > 0) check_floats(names.m, t.m, n);
  if (moments > 1) check_flat(names.v, t.v, t.m.dtype, n);
  if (moments > 0 && t.m.dtype == DType::BF16)
    UPCYCLE_CHECK(t.rounding.first >= 0 && t.rounding.width > 0 && t.rounding.pitch >= t.rounding.width,
                  "{}: from element {}, width {}, pitch {}", names.width, t.rounding.first, t.rounding.width,
                  t.rounding.pitch);
  check_tensor(names.scale, scale, DType::F32, {1});
  return n;
}

void check_betas(const char* op, float beta1, float beta2) {
  UPCYCLE_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "{}: beta1 {} and beta2 {}, expected [0, 1)", op,
                beta1, beta2);
}

}  // namespace

std::int64_t check_sum_squares(const Tensor& out, const Tensor& x) {
  check_tensor("sum_squares: out", out, DType::F64, {1});
  check_flat("sum_squares: x", x, DType::F32, x.size());
  return x.size();
}

std::int64_t check_adamw(const UpdateTensors& t, const Tensor& scale, const AdamwStep& step) {
  const std::int64_t n = check_update(NAMES("adamw"), t, scale, 2);
  UPCYCLE_CHECK(step.step >= 1, "adamw: step {}, steps count from 1", step.step);
  check_betas("adamw", step.beta1, step.beta2);
  return n;
}

std::int64_t check_lion(const UpdateTensors& t, const Tensor& scale, const LionStep& step) {
  const std::int64_t n = check_update(NAMES("lion"), t, scale, 1);
  check_betas("lion", step.beta1, step.beta2);
  return n;
}

std::int64_t check_sgd(const UpdateTensors& t, const Tensor& scale) { return check_update(NAMES("sgd"), t, scale, 0); }

void check_clip_scale(const Tensor& scale, const Tensor& sum_squares) {
  check_tensor("clip_scale: scale", scale, DType::F32, {1});
  check_tensor("clip_scale: sum_squares", sum_squares, DType::F64, {1});
}

}  // namespace upcycle
