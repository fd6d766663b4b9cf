#include "kernels/attention_sizes.h"

#include <cmath>

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle::attention {

float score_scale(float scale, std::int64_t D) {
  return scale != 0 ? scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
}

Sizes sizes_of(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t D,
               const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale) {
  UPCYCLE_CHECK(D > 0 && q.rank == 2 && k.rank == 2 && q.columns() % D == 0 && k.columns() % D == 0,
                "attention: q {} and k {} do not hold heads of size {}", q.describe(), k.describe(), D);
  Sizes z{};
  z.Tq = q.rows();
  z.Tk = k.rows();
  z.N = q.columns() / D;
  z.K = k.columns() / D;
  UPCYCLE_CHECK(z.K > 0 && z.N % z.K == 0, "attention: {} query heads are not a multiple of {} key/value heads", z.N,
                z.K);
  z.G = z.N / z.K;
  z.D = D;
  z.Dp = padded(D);
  z.scale = score_scale(scale, D);
  check_rows("attention: q", q, z.Tq, z.N * D);
  check_rows("attention: k", k, z.Tk, z.K * D);
  check_rows("attention: v", v, z.Tk, z.K * D);
  check_rows("attention: out", out, z.Tq, z.N * D);
  check_tensor("attention: lse", lse, DType::F32, {z.N, z.Tq});
  UPCYCLE_CHECK(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype,
                "attention: q {}, k {}, v {}, out {} differ in type", q.describe(), k.describe(), v.describe(),
                out.describe());
  UPCYCLE_CHECK(q_sequences.count == k_sequences.count, "attention: {} sequences of q, {} of k", q_sequences.count,
                k_sequences.count);
  check_tensor("attention: q_sequences", q_sequences.offsets, DType::I32, {q_sequences.count + 1});
  check_tensor("attention: k_sequences", k_sequences.offsets, DType::I32, {k_sequences.count + 1});
  return z;
}

void check_gradients(const Sizes& z, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                     const Tensor& q) {
  check_rows("attention_backward: dq", dq, z.Tq, z.N * z.D);
  check_rows("attention_backward: dk", dk, z.Tk, z.K * z.D);
  check_rows("attention_backward: dv", dv, z.Tk, z.K * z.D);
  check_rows("attention_backward: dout", dout, z.Tq, z.N * z.D);
  UPCYCLE_CHECK(dq.dtype == q.dtype && dk.dtype == q.dtype && dv.dtype == q.dtype && dout.dtype == q.dtype,
                "attention_backward: q {}, dq {}, dk {}, dv {}, dout {} differ in type", q.describe(), dq.describe(),
                dk.describe(), dv.describe(), dout.describe());
}

}  // namespace upcycle::attention
