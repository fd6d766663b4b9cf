#include "parallel/model/router.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

RouterSoftmax softmax_order(const ModelConfig& model) {
  return model.router_softmax == "topk_then_softmax" ? RouterSoftmax::TopkThenSoftmax : RouterSoftmax::SoftmaxThenTopk;
}

bool by_sigmoid(const ModelContext& m) { return m.config.router_score == "sigmoid"; }

// To where the backward reads them, or to scratch.
Tensor logits(const ModelContext& m, const Tensor& x, const Tensor& weight, const RouterState& saved,
              const RouterScratch& scratch) {
  const Tensor& out = saved.logits ? saved.logits : scratch.logits;
  m.ops->convert(*m.stream, scratch.x, x);
  m.ops->convert(*m.stream, scratch.w, weight);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, out, scratch.x, scratch.w);
  return out;
}

// The rows of a pass that are no tokens go to no expert.
void leave_out_padding(const ModelContext& m, const Tensor& experts) {
  if (m.pass.padding == 0) return;
  const std::int64_t tokens = m.T() - m.pass.padding - m.T_local() * m.mesh->at.tp;
  const Tensor tail = experts.slice_rows(std::clamp<std::int64_t>(tokens, 0, m.T_local()), m.T_local());
  static const std::vector<std::int32_t> none(4096, -1);
  UPCYCLE_CHECK(tail.size() <= static_cast<std::int64_t>(none.size()), "{} rows of padding", tail.rows());
  m.device->copy_from_host(*m.stream, tail.data, none.data(), tail.bytes());
}

// The statistics of all tp ranks: T counts their tokens, so the sums come before what is made of them.
void sum_stats(const ModelContext& m, const Tensor& stats, const Tensor& experts, const RouterState& saved) {
  m.ops->router_stats(*m.stream, m.workspace, stats, saved.probs, experts, saved.lse);
  m.stream->wait(m.mesh->tp->all_reduce(stats));
}

// Assignments f64 (E) of the ranks that are at this microbatch of theirs, whole numbers, join those of the step so far.
void add_to_running(const ModelContext& m, const Tensor& assigned, const RouterState& saved,
                    const RouterScratch& scratch) {
  Tensor counted = assigned;
  if (m.mesh->layout.dp > 1) {
    counted = scratch.counted;
    m.ops->convert(*m.stream, counted, assigned);
    m.stream->wait(m.mesh->dp->all_reduce(counted));
  }
  m.ops->add(*m.stream, saved.running, saved.running, counted);
}

}  // namespace

void route(const ModelContext& m, const Tensor& weight, const Tensor& bias, const Tensor& x, const RouterState& saved,
           const RouterScratch& scratch) {
  const Tensor of_x = logits(m, x, weight, saved, scratch);
  if (by_sigmoid(m))
    m.ops->sigmoid_router_forward(*m.stream, saved.probs, saved.experts, saved.weights, saved.lse, of_x, bias,
                                  softmax_order(m.config));
  else
    m.ops->router_forward(*m.stream, saved.probs, saved.experts, saved.weights, saved.lse, of_x,
                          softmax_order(m.config));
  leave_out_padding(m, saved.experts);
}

void router_losses(const ModelContext& m, const Tensor& metrics, double share, const RouterState& saved,
                   const RouterScratch& scratch) {
  sum_stats(m, saved.stats, saved.experts, saved);
  Tensor assigned = saved.stats.slice_rows(0, m.sizes.E), counted;
  if (m.config.router_bias) {  // probs and lse come out as they are
    m.ops->sigmoid_router_forward(*m.stream, saved.probs, scratch.experts, scratch.weights, saved.lse, saved.logits,
                                  Tensor{}, softmax_order(m.config));
    sum_stats(m, scratch.stats, scratch.experts, saved);
    counted = assigned = scratch.stats.slice_rows(0, m.sizes.E);
  }
  if (saved.running) {
    add_to_running(m, assigned, saved, scratch);
    counted = saved.running;
  }
  m.ops->router_losses(*m.stream, saved.expert_scale, metrics, saved.stats, counted, m.T(), m.sizes.k, share,
                       m.config.router_aux_loss_coef * share);
}

void route_again(const ModelContext& m, const Tensor& weight, const Tensor& x, const RouterState& saved,
                 const RouterScratch& scratch) {
  const Tensor of_x = logits(m, x, weight, saved, scratch);
  if (by_sigmoid(m))
    m.ops->sigmoid_router_weights(*m.stream, saved.probs, saved.weights, saved.lse, of_x, saved.experts,
                                  softmax_order(m.config));
  else
    m.ops->router_weights(*m.stream, saved.probs, saved.weights, saved.lse, of_x, saved.experts,
                          softmax_order(m.config));
}

void route_backward(const ModelContext& m, const Tensor& weight, const Tensor& dweight, const Tensor& dx,
                    const Tensor& dweights, const Tensor& x, double share, const RouterState& saved,
                    const RouterScratch& scratch) {
  const auto z_scale = static_cast<float>(m.config.router_z_loss_coef * share / static_cast<double>(m.T()));
  if (by_sigmoid(m))
    m.ops->sigmoid_router_backward(*m.stream, scratch.dlogits, dweights, saved.probs, saved.experts, saved.weights,
                                   saved.lse, saved.logits, saved.expert_scale, z_scale, softmax_order(m.config));
  else
    m.ops->router_backward(*m.stream, scratch.dlogits, dweights, saved.probs, saved.experts, saved.weights, saved.lse,
                           saved.expert_scale, z_scale, softmax_order(m.config));
  m.ops->convert(*m.stream, scratch.x, x);
  m.ops->convert(*m.stream, scratch.w, weight);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::TN, dweight, scratch.dlogits, scratch.x, Store::Accumulate);
  // scratch.x has served: it takes the gradient.
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NN, scratch.x, scratch.dlogits, scratch.w);
  m.ops->add(*m.stream, dx, dx, scratch.x);
}

}  // namespace upcycle
