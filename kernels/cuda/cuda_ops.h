#pragma once
#include <memory>

#include "kernels/ops.h"

namespace upcycle {

namespace cuda {
struct Gemms;
struct Lanes;
}  // namespace cuda

// The CUDA implementation: GEMM by cuBLASLt, the rest hand-written. One op a file in this folder: kernel above,
// launcher below. Calls are asynchronous on the stream; none allocates or synchronizes.
class CudaOps final : public Ops {
 public:
  CudaOps();
  ~CudaOps() override;

  std::size_t workspace_bytes(const OpLimits& limits) const override;
  void prepare(const OpLimits& limits) override;
  void matmul(Stream&, Workspace, MatmulKind, const Tensor& c, const Tensor& a, const Tensor& b, Store) override;
  void grouped_matmul(Stream&, Workspace, MatmulKind, const Tensor& c, const Tensor& a, const Tensor& b,
                      std::span<const std::int64_t> offsets, Store) override;
  void embedding_forward(Stream&, const Tensor& out, const Tensor& table, const Tensor& tokens,
                         std::int64_t vocab_begin) override;
  void embedding_backward(Stream&, Workspace, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                          std::int64_t vocab_begin) override;
  void rms_norm_forward(Stream&, const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                        const Tensor& delta, const Tensor& weight, float eps) override;
  void rms_norm_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& dout,
                         const Tensor& x, const Tensor& weight, const Tensor& rstd) override;
  void rope(Stream&, const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions,
            bool inverse) override;
  void attention_forward(Stream&, Workspace, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                         const Tensor& v, std::int64_t D, const PackedSequences& q_sequences,
                         const PackedSequences& k_sequences) override;
  void attention_backward(Stream&, Workspace, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                          const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                          std::int64_t D, const PackedSequences& q_sequences,
                          const PackedSequences& k_sequences) override;
  void swiglu_forward(Stream&, const Tensor& out, const Tensor& gate_up) override;
  void swiglu_backward(Stream&, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) override;
  void linear_xent_stats(Stream&, Workspace, const Tensor& stats, const Tensor& x, const Tensor& weight,
                         const Tensor& targets, std::int64_t vocab_begin, std::int64_t vocab_valid) override;
  void xent_combine(Stream&, const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                    const Tensor& targets) override;
  void linear_xent_backward(Stream&, Workspace, const Tensor& dx, const Tensor& dweight, const Tensor& x,
                            const Tensor& weight, const Tensor& targets, const Tensor& lse, std::int64_t vocab_begin,
                            std::int64_t vocab_valid, float scale) override;
  void router_forward(Stream&, const Tensor& probs, const Tensor& experts, const Tensor& weights, const Tensor& lse,
                      const Tensor& logits, RouterSoftmax order) override;
  void router_weights(Stream&, const Tensor& probs, const Tensor& weights, const Tensor& lse, const Tensor& logits,
                      const Tensor& experts, RouterSoftmax order) override;
  void router_stats(Stream&, Workspace, const Tensor& stats, const Tensor& probs, const Tensor& experts,
                    const Tensor& lse) override;
  void router_losses(Stream&, const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats, std::int64_t T,
                     std::int64_t k, double share, double aux_scale) override;
  void router_backward(Stream&, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                       const Tensor& experts, const Tensor& weights, const Tensor& lse, const Tensor& expert_scale,
                       float z_scale, RouterSoftmax order) override;
  void sort_by_expert(Stream&, Workspace, const Tensor& counts, const Tensor& source, const Tensor& slot,
                      const Tensor& experts, std::int64_t align) override;
  void gather_rows(Stream&, const Tensor& out, const Tensor& x, const Tensor& source) override;
  void combine_rows(Stream&, const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights,
                    Store) override;
  void combine_rows_backward(Stream&, const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                             const Tensor& rows, const Tensor& slot, const Tensor& weights) override;
  void fill(Stream&, const Tensor& out, float value) override;
  void convert(Stream&, const Tensor& out, const Tensor& x) override;
  void add(Stream&, const Tensor& out, const Tensor& a, const Tensor& b) override;
  void sum_squares(Stream&, Workspace, const Tensor& out, const Tensor& x) override;
  void clip_scale(Stream&, const Tensor& scale, const Tensor& sum_squares, float max_norm) override;
  void adamw(Stream&, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& grad,
             const Tensor& scale, const AdamwStep& step) override;
  void sgd(Stream&, const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale, float lr,
           float weight_decay) override;

  // Matrix products whose algorithm has been chosen so far; a step after the first chooses none.
  std::size_t chosen_algorithms() const;

 private:
  std::unique_ptr<cuda::Gemms> gemms_;  // cuBLASLt handle, and the algorithm chosen for each shape
  std::unique_ptr<cuda::Lanes> lanes_;  // streams of grouped_matmul
};

std::unique_ptr<Ops> make_cuda_ops();

namespace cuda {
std::size_t workspace_bytes(const OpLimits& limits);  // CudaOps', without a GPU: a plan asks for it
// What one call of each family needs as scratch, each defined beside its op.
std::size_t matmul_workspace(const OpLimits& limits);
std::size_t linear_xent_workspace(const OpLimits& limits);
std::size_t attention_workspace(const OpLimits& limits);
std::size_t rms_norm_workspace(const OpLimits& limits);
std::size_t embedding_workspace(const OpLimits& limits);
std::size_t router_workspace(const OpLimits& limits);
std::size_t sort_workspace(const OpLimits& limits);
std::size_t sum_squares_workspace(const OpLimits& limits);
}  // namespace cuda

}  // namespace upcycle
