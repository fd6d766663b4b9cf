#include "kernels/checks/optimizer.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

void check_param(const char* op, const Tensor& param) {
  UPCYCLE_CHECK(param.dtype == DType::F32 || param.dtype == DType::BF16, "{}: param is {}, expected fp32 or bf16", op,
                param.describe());
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

std::int64_t check_adamw(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v,
                         const Tensor& grad, const Tensor& scale, const AdamwStep& step) {
  const std::int64_t n = master.size();
  check_flat("adamw: master", master, DType::F32, n);
  check_flat("adamw: m", m, DType::F32, n);
  check_flat("adamw: v", v, DType::F32, n);
  check_flat("adamw: grad", grad, DType::F32, n);
  check_flat("adamw: param", param, param.dtype, n);
  check_tensor("adamw: scale", scale, DType::F32, {1});
  check_param("adamw", param);
  UPCYCLE_CHECK(step.step >= 1, "adamw: step {}, steps count from 1", step.step);
  check_betas("adamw", step.beta1, step.beta2);
  return n;
}

std::int64_t check_lion(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& grad,
                        const Tensor& scale, const LionStep& step) {
  const std::int64_t n = master.size();
  check_flat("lion: master", master, DType::F32, n);
  check_flat("lion: m", m, DType::F32, n);
  check_flat("lion: grad", grad, DType::F32, n);
  check_flat("lion: param", param, param.dtype, n);
  check_tensor("lion: scale", scale, DType::F32, {1});
  check_param("lion", param);
  check_betas("lion", step.beta1, step.beta2);
  return n;
}

std::int64_t check_sgd(const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale) {
  const std::int64_t n = master.size();
  check_flat("sgd: master", master, DType::F32, n);
  check_flat("sgd: grad", grad, DType::F32, n);
  check_flat("sgd: param", param, param.dtype, n);
  check_tensor("sgd: scale", scale, DType::F32, {1});
  check_param("sgd", param);
  return n;
}

void check_clip_scale(const Tensor& scale, const Tensor& sum_squares) {
  check_tensor("clip_scale: scale", scale, DType::F32, {1});
  check_tensor("clip_scale: sum_squares", sum_squares, DType::F64, {1});
}

}  // namespace upcycle
