#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/op_types.h"

// The maths of one device, in one interface that cpu/ and cuda/ implement. Dimension letters:
//   B sequences, S sequence length, T = B*S tokens, V vocabulary rows held here, H hidden, F MLP or expert intermediate
//   size, N query heads, K key/value heads, D head size, E experts, k experts a token, R rows of an expert buffer.
//
// Rules of every op:
//   - asynchronous on `stream`; allocates nothing; never reads device data on the host.
//   - "activation" tensors are bf16 or fp32 (all of one call the same type); statistics, losses and parameter
//     gradients are fp32. Sums run in fp32 at least, in an order that does not depend on timing: same inputs, same
//     bits.
//   - parameter gradients ACCUMULATE (+=): they gather over microbatches. Activation gradients overwrite (=), except
//     where an op says +=.
//   - shapes are checked; a mismatch throws Error.
namespace upcycle {

class Stream;

class Ops {
 public:
  virtual ~Ops() = default;

  // Scratch that any single op call within `limits` needs.
  virtual std::size_t workspace_bytes(const OpLimits& limits) const = 0;
  // Builds what should not be built inside a step (GEMM primitives) for row counts up to limits.R of grouped_matmul.
  virtual void prepare(const OpLimits& limits) = 0;

  // ---- matrix products -------------------------------------------------------------------------------------------
  // A and B fp32 -> C fp32; A and B bf16 -> C bf16 or fp32. fp32 accumulation. Accumulate needs C fp32. Operands may
  // have strided rows. Zero rows, columns or k are allowed (k = 0 gives zeros or leaves C as it is).
  virtual void matmul(Stream&, Workspace, MatmulKind, const Tensor& c, const Tensor& a, const Tensor& b,
                      Store = Store::Overwrite) = 0;
  // One product an expert: segment e is rows [offsets[e], offsets[e + 1]) of the (R, .) operands; `offsets` is on the
  // host, its entries multiples of kExpertRowAlign.
  //   NT: C (R, n) = A (R, k), B (E, n, k)     NN: C (R, n) = A (R, k), B (E, k, n)     TN: C (E, m, n) = A (R, m), B
  //   (R, n)
  virtual void grouped_matmul(Stream&, Workspace, MatmulKind, const Tensor& c, const Tensor& a, const Tensor& b,
                              std::span<const std::int64_t> offsets, Store = Store::Overwrite) = 0;

  // ---- embedding, vocabulary-parallel: this rank holds rows [vocab_begin, vocab_begin + V) ----------------------
  // out (T, H) = table (V, H)[token - vocab_begin], zeros for tokens held elsewhere. tokens: i32 (T).
  virtual void embedding_forward(Stream&, const Tensor& out, const Tensor& table, const Tensor& tokens,
                                 std::int64_t vocab_begin) = 0;
  // dtable fp32 (V, H) += dout (T, H), added in token order.
  virtual void embedding_backward(Stream&, Workspace, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                                  std::int64_t vocab_begin) = 0;

  // ---- RMSNorm (arXiv 1910.07467), with the residual addition before it -----------------------------------------
  // sum (T, H) = x + delta (when delta has data; then sum must too; sum may alias x), out (T, H) = sum * rstd * weight,
  // rstd fp32 (T) = 1 / sqrt(mean(sum^2) + eps). Without delta the input is x.
  virtual void rms_norm_forward(Stream&, const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                                const Tensor& delta, const Tensor& weight, float eps) = 0;
  // dx (T, H) += (the residual branch's gradient is already there), dweight fp32 (H) +=. x is the normed input (sum).
  virtual void rms_norm_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& dout,
                                 const Tensor& x, const Tensor& weight, const Tensor& rstd) = 0;

  // ---- rotary embedding (arXiv 2104.09864), in Hugging Face's half-split order, in place -------------------------
  // x (T, heads * D) strided rows; table fp32 (positions, D): cos of the D/2 angles, then sin; positions: i32 (T).
  // `inverse` rotates back (the backward).
  virtual void rope(Stream&, const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions,
                    bool inverse) = 0;

  // ---- causal grouped-query attention that never stores S x S (arXiv 2205.14135) --------------------------------
  // q (Tq, N*D), k, v (Tk, K*D) with strided rows; out (Tq, N*D); lse fp32 (N, Tq) = log-sum-exp of the scaled scores.
  // Sequence i of q attends to sequence i of k; the last query row sees the last key row (so a short q continues a
  // longer, cached k). Scores are scaled by 1/sqrt(D).
  virtual void attention_forward(Stream&, Workspace, const Tensor& out, const Tensor& lse, const Tensor& q,
                                 const Tensor& k, const Tensor& v, std::int64_t D, const PackedSequences& q_sequences,
                                 const PackedSequences& k_sequences) = 0;
  // dq, dk, dv overwritten; they may be column blocks of one packed tensor.
  virtual void attention_backward(Stream&, Workspace, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                  const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse, std::int64_t D,
                                  const PackedSequences& q_sequences, const PackedSequences& k_sequences) = 0;

  // ---- SwiGLU (arXiv 2002.05202) on packed gate and up ----------------------------------------------------------
  // out (T, F) = silu(gate) * up, gate_up (T, 2F): gate in columns [0, F), up in [F, 2F).
  virtual void swiglu_forward(Stream&, const Tensor& out, const Tensor& gate_up) = 0;
  virtual void swiglu_backward(Stream&, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) = 0;

  // ---- output projection fused with cross-entropy, in vocabulary blocks, vocabulary-parallel ---------------------
  // Logits = x (T, H) W (V, H)^T of this rank's vocabulary rows; rows from vocab_valid on are padding and count for
  // nothing. stats fp32 (T, 3): max, sum of exp(logit - max), the target's logit (0 where it is held elsewhere).
  // targets: i32 (T), global ids, -1 = not counted. V may be smaller than the whole vocabulary; no (T, V) is stored.
  virtual void linear_xent_stats(Stream&, Workspace, const Tensor& stats, const Tensor& x, const Tensor& weight,
                                 const Tensor& targets, std::int64_t vocab_begin, std::int64_t vocab_valid) = 0;
  // Joins the statistics of all vocabulary shards, in rank order: stats (ranks, T, 3) -> nll fp32 (T) (0 where the
  // target is -1), lse fp32 (T); loss_sum f64 (1) += the sum of nll.
  virtual void xent_combine(Stream&, const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                            const Tensor& targets) = 0;
  // With dlogits = (softmax - onehot) * scale on counted rows, 0 on others: dx (T, H) = dlogits W (this shard's part;
  // summed over ranks by the caller), dweight fp32 (V, H) += dlogits^T x. dx has x's type or is fp32.
  virtual void linear_xent_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& x,
                                    const Tensor& weight, const Tensor& targets, const Tensor& lse,
                                    std::int64_t vocab_begin, std::int64_t vocab_valid, float scale) = 0;

  // ---- mixture of experts ------------------------------------------------------------------------------------------
  // logits fp32 (T, E) -> probs fp32 (T, E) = softmax(logits), experts i32 (T, k) by falling logit (ties: the lower
  // index first), weights fp32 (T, k): softmax over the chosen k, or their entries of probs; lse fp32 (T).
  virtual void router_forward(Stream&, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                              const Tensor& lse, const Tensor& logits, RouterSoftmax order) = 0;
  // As router_forward, but `experts` is given (replayed): recompute must not choose again.
  virtual void router_weights(Stream&, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                              const Tensor& logits, const Tensor& experts, RouterSoftmax order) = 0;
  // stats f64 (2E + 2), overwritten: assignments of each expert, sums of each expert's probability, sum over tokens of
  // lse^2, sum over tokens of the entropy of probs (nats).
  virtual void router_stats(Stream&, Workspace, const Tensor& stats, const Tensor& probs, const Tensor& experts,
                            const Tensor& lse) = 0;
  // What the router's losses need of `stats`, which now are of all T tokens that share them. Load balancing (arXiv
  // 2101.03961 with k: arXiv 2006.16668): aux = (E/k) sum_e f_e P_e, f_e = assignments_e / T, P_e the mean probability;
  // uniform routing gives 1. expert_scale fp32 (E) = aux_scale * (E/k) f_e / T, see router_backward.
  // metrics f64 (4) += share * {aux, mean lse^2, mean entropy, highest assignments_e over their mean}.
  virtual void router_losses(Stream&, const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                             std::int64_t T, std::int64_t k, double share, double aux_scale) = 0;
  // dlogits fp32 (T, E) from dweights fp32 (T, k); plus, for every token, the load-balancing loss's
  // dP_e = expert_scale[e] (fp32 (E): coef * E/k * f_e / T, already times its weight in the loss) through the softmax,
  // and the z-loss's z_scale * 2 * lse * probs. z_scale: coefficient times weight over T.
  virtual void router_backward(Stream&, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                               const Tensor& experts, const Tensor& weights, const Tensor& lse,
                               const Tensor& expert_scale, float z_scale, RouterSoftmax order) = 0;
  // Stable sort of the T*k assignments by expert, into a buffer whose segments begin at multiples of `align` rows:
  // counts i32 (E); source i32 (R): the token of each row, -1 where a row is padding or past the end; slot i32 (T, k):
  // the row of each assignment. R >= sum over e of round_up(counts[e], align).
  virtual void sort_by_expert(Stream&, Workspace, const Tensor& counts, const Tensor& source, const Tensor& slot,
                              const Tensor& experts, std::int64_t align) = 0;
  // out (R, H): row r = x (., H)[source[r]], zeros where source[r] < 0. source: i32 (R).
  virtual void gather_rows(Stream&, const Tensor& out, const Tensor& x, const Tensor& source) = 0;
  // out (T, H) = (or +=) sum over j of weights[t, j] * rows (R, H)[slot[t, j]], j rising; slot i32 (T, k), -1 adds
  // nothing; weights fp32 (T, k), or without data: all 1.
  virtual void combine_rows(Stream&, const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights,
                            Store = Store::Overwrite) = 0;
  // drows (R, H)[slot[t, j]] = weights[t, j] * dout (T, H)[t], dweights fp32 (T, k) = <dout[t], rows[slot[t, j]]>.
  // Rows of drows that no slot names are left alone: the caller zeroes them once.
  virtual void combine_rows_backward(Stream&, const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                                     const Tensor& rows, const Tensor& slot, const Tensor& weights) = 0;

  // ---- elementwise and optimizer -----------------------------------------------------------------------------------
  virtual void fill(Stream&, const Tensor& out, float value) = 0;
  virtual void convert(Stream&, const Tensor& out, const Tensor& x) = 0;               // fp32, bf16, f64 <-> each other
  virtual void add(Stream&, const Tensor& out, const Tensor& a, const Tensor& b) = 0;  // mixed types; out may alias a
  // out f64 (1) += sum of x^2 (x fp32), in an order fixed by the size alone.
  virtual void sum_squares(Stream&, Workspace, const Tensor& out, const Tensor& x) = 0;
  // scale fp32 (1) = min(1, max_norm / (sqrt(sum_squares) + 1e-6)); 1 when max_norm <= 0.
  virtual void clip_scale(Stream&, const Tensor& scale, const Tensor& sum_squares, float max_norm) = 0;
  // AdamW (arXiv 1711.05101) with decoupled decay: g = grad * scale[0]; master, m, v fp32 updated in place, param = its
  // rounding to param's type (param may be master itself). All of one size.
  virtual void adamw(Stream&, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v,
                     const Tensor& grad, const Tensor& scale, const AdamwStep& step) = 0;
  virtual void sgd(Stream&, const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale,
                   float lr, float weight_decay) = 0;
};

std::unique_ptr<Ops> make_cpu_ops();

}  // namespace upcycle
