#pragma once
#include <memory>
#include <utility>

#include "core/device.h"
#include "kernels/ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"

namespace upcycle::testing {

// The ops as tests call them that look at device memory on the host: memory is open to the test, closed to the op's own
// host code (under UPCYCLE_EMUL_GUARD), and when a call returns its work is done, in whatever order its streams ran.
class SettledOps final : public Ops {
 public:
  explicit SettledOps(std::unique_ptr<Ops> ops) : ops_(std::move(ops)) {}

  std::size_t workspace_bytes(const OpLimits& limits) const override { return ops_->workspace_bytes(limits); }
  void prepare(const OpLimits& limits) override {
    const emul::HostCode closed;
    ops_->prepare(limits);
  }
  void matmul(Stream& stream, Workspace w, MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b,
              Store store) override {
    settle(stream, [&] { ops_->matmul(stream, w, kind, c, a, b, store); });
  }
  void grouped_matmul(Stream& stream, Workspace w, MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b,
                      std::span<const std::int64_t> offsets, Store store) override {
    settle(stream, [&] { ops_->grouped_matmul(stream, w, kind, c, a, b, offsets, store); });
  }
  void embedding_forward(Stream& stream, const Tensor& out, const Tensor& table, const Tensor& tokens,
                         std::int64_t vocab_begin) override {
    settle(stream, [&] { ops_->embedding_forward(stream, out, table, tokens, vocab_begin); });
  }
  void embedding_backward(Stream& stream, Workspace w, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                          std::int64_t vocab_begin) override {
    settle(stream, [&] { ops_->embedding_backward(stream, w, dtable, dout, tokens, vocab_begin); });
  }
  void rms_norm_forward(Stream& stream, const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                        const Tensor& delta, const Tensor& weight, float eps) override {
    settle(stream, [&] { ops_->rms_norm_forward(stream, out, rstd, sum, x, delta, weight, eps); });
  }
  void rms_norm_backward(Stream& stream, Workspace w, const Tensor& dx, const Tensor& dweight, const Tensor& dout,
                         const Tensor& x, const Tensor& weight, const Tensor& rstd) override {
    settle(stream, [&] { ops_->rms_norm_backward(stream, w, dx, dweight, dout, x, weight, rstd); });
  }
  void rope(Stream& stream, const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions,
            bool inverse) override {
    settle(stream, [&] { ops_->rope(stream, x, D, table, positions, inverse); });
  }
  void attention_forward(Stream& stream, Workspace w, const Tensor& out, const Tensor& lse, const Tensor& q,
                         const Tensor& k, const Tensor& v, std::int64_t D, const PackedSequences& q_sequences,
                         const PackedSequences& k_sequences) override {
    settle(stream, [&] { ops_->attention_forward(stream, w, out, lse, q, k, v, D, q_sequences, k_sequences); });
  }
  void attention_backward(Stream& stream, Workspace w, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                          const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                          const Tensor& lse, std::int64_t D, const PackedSequences& q_sequences,
                          const PackedSequences& k_sequences) override {
    settle(stream, [&] {
      ops_->attention_backward(stream, w, dq, dk, dv, dout, q, k, v, out, lse, D, q_sequences, k_sequences);
    });
  }
  void swiglu_forward(Stream& stream, const Tensor& out, const Tensor& gate_up) override {
    settle(stream, [&] { ops_->swiglu_forward(stream, out, gate_up); });
  }
  void swiglu_backward(Stream& stream, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) override {
    settle(stream, [&] { ops_->swiglu_backward(stream, dgate_up, dout, gate_up); });
  }
  void linear_xent_stats(Stream& stream, Workspace w, const Tensor& stats, const Tensor& x, const Tensor& weight,
                         const Tensor& targets, std::int64_t vocab_begin, std::int64_t vocab_valid) override {
    settle(stream, [&] { ops_->linear_xent_stats(stream, w, stats, x, weight, targets, vocab_begin, vocab_valid); });
  }
  void xent_combine(Stream& stream, const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                    const Tensor& targets) override {
    settle(stream, [&] { ops_->xent_combine(stream, nll, lse, loss_sum, stats, targets); });
  }
  void linear_xent_backward(Stream& stream, Workspace w, const Tensor& dx, const Tensor& dweight, const Tensor& x,
                            const Tensor& weight, const Tensor& targets, const Tensor& lse, std::int64_t vocab_begin,
                            std::int64_t vocab_valid, float scale) override {
    settle(stream, [&] {
      ops_->linear_xent_backward(stream, w, dx, dweight, x, weight, targets, lse, vocab_begin, vocab_valid, scale);
    });
  }
  void router_forward(Stream& stream, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                      const Tensor& lse, const Tensor& logits, RouterSoftmax order) override {
    settle(stream, [&] { ops_->router_forward(stream, probs, experts, weights, lse, logits, order); });
  }
  void router_weights(Stream& stream, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                      const Tensor& logits, const Tensor& experts, RouterSoftmax order) override {
    settle(stream, [&] { ops_->router_weights(stream, probs, weights, lse, logits, experts, order); });
  }
  void router_stats(Stream& stream, Workspace w, const Tensor& stats, const Tensor& probs, const Tensor& experts,
                    const Tensor& lse) override {
    settle(stream, [&] { ops_->router_stats(stream, w, stats, probs, experts, lse); });
  }
  void router_losses(Stream& stream, const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                     std::int64_t T, std::int64_t k, double share, double aux_scale) override {
    settle(stream, [&] { ops_->router_losses(stream, expert_scale, metrics, stats, T, k, share, aux_scale); });
  }
  void router_backward(Stream& stream, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                       const Tensor& experts, const Tensor& weights, const Tensor& lse, const Tensor& expert_scale,
                       float z_scale, RouterSoftmax order) override {
    settle(stream, [&] {
      ops_->router_backward(stream, dlogits, dweights, probs, experts, weights, lse, expert_scale, z_scale, order);
    });
  }
  void sort_by_expert(Stream& stream, Workspace w, const Tensor& counts, const Tensor& source, const Tensor& slot,
                      const Tensor& experts, std::int64_t align) override {
    settle(stream, [&] { ops_->sort_by_expert(stream, w, counts, source, slot, experts, align); });
  }
  void gather_rows(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& source) override {
    settle(stream, [&] { ops_->gather_rows(stream, out, x, source); });
  }
  void combine_rows(Stream& stream, const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights,
                    Store store) override {
    settle(stream, [&] { ops_->combine_rows(stream, out, rows, slot, weights, store); });
  }
  void combine_rows_backward(Stream& stream, const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                             const Tensor& rows, const Tensor& slot, const Tensor& weights) override {
    settle(stream, [&] { ops_->combine_rows_backward(stream, drows, dweights, dout, rows, slot, weights); });
  }
  void fill(Stream& stream, const Tensor& out, float value) override {
    settle(stream, [&] { ops_->fill(stream, out, value); });
  }
  void convert(Stream& stream, const Tensor& out, const Tensor& x) override {
    settle(stream, [&] { ops_->convert(stream, out, x); });
  }
  void add(Stream& stream, const Tensor& out, const Tensor& a, const Tensor& b) override {
    settle(stream, [&] { ops_->add(stream, out, a, b); });
  }
  void sum_squares(Stream& stream, Workspace w, const Tensor& out, const Tensor& x) override {
    settle(stream, [&] { ops_->sum_squares(stream, w, out, x); });
  }
  void clip_scale(Stream& stream, const Tensor& scale, const Tensor& sum_squares, float max_norm) override {
    settle(stream, [&] { ops_->clip_scale(stream, scale, sum_squares, max_norm); });
  }
  void adamw(Stream& stream, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v,
             const Tensor& grad, const Tensor& scale, const AdamwStep& step) override {
    settle(stream, [&] { ops_->adamw(stream, param, master, m, v, grad, scale, step); });
  }
  void sgd(Stream& stream, const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale, float lr,
           float weight_decay) override {
    settle(stream, [&] { ops_->sgd(stream, param, master, grad, scale, lr, weight_decay); });
  }

 private:
  template <class F>
  static void settle(Stream& stream, const F& call) {
    {
      const emul::HostCode closed;
      call();
    }
    stream.synchronize();
  }

  std::unique_ptr<Ops> ops_;
};

}  // namespace upcycle::testing
