#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

RouterSoftmax softmax_order(const ModelConfig& model) {
  return model.router_softmax == "topk_then_softmax" ? RouterSoftmax::TopkThenSoftmax : RouterSoftmax::SoftmaxThenTopk;
}

}  // namespace

void route(Transformer& m, std::int64_t layer, bool replay) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerState& a = m.activations.layers[l];
  const Scratch& c = m.activations.scratch;
  const MoeState& moe = a.moe;
  m.ops->convert(*m.stream, c.router_x, a.mlp_norm);
  m.ops->convert(*m.stream, c.router_w, m.weights.layers[l].router);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, c.router_logits, c.router_x, c.router_w);
  if (replay) {
    m.ops->router_weights(*m.stream, moe.probs, moe.weights, moe.lse, c.router_logits, moe.experts,
                          softmax_order(m.config));
    return;
  }
  m.ops->router_forward(*m.stream, moe.probs, moe.experts, moe.weights, moe.lse, c.router_logits,
                        softmax_order(m.config));
}

void route_losses(Transformer& m, std::int64_t layer, double share) {
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  m.ops->router_stats(*m.stream, m.workspace(), moe.stats, moe.probs, moe.experts, moe.lse);
  // T counts the tokens of all tp ranks, so the sums come before what is made of them.
  m.stream->wait(m.mesh->tp->all_reduce(moe.stats));
  m.ops->router_losses(*m.stream, moe.expert_scale, m.activations.metrics_of(layer), moe.stats, m.T(), m.sizes.k, share,
                       m.config.router_aux_loss_coef * share);
}

void route_backward(Transformer& m, std::int64_t layer, double share) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerState& a = m.activations.layers[l];
  const Scratch& c = m.activations.scratch;
  const MoeState& moe = a.moe;
  const auto z_scale = static_cast<float>(m.config.router_z_loss_coef * share / static_cast<double>(m.T()));
  m.ops->router_backward(*m.stream, c.router_dlogits, c.dweights, moe.probs, moe.experts, moe.weights, moe.lse,
                         moe.expert_scale, z_scale, softmax_order(m.config));
  m.ops->convert(*m.stream, c.router_x, a.mlp_norm);
  m.ops->convert(*m.stream, c.router_w, m.weights.layers[l].router);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::TN, m.gradients.layers[l].router, c.router_dlogits, c.router_x,
                Store::Accumulate);
  // router_x has served: it takes the gradient.
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NN, c.router_x, c.router_dlogits, c.router_w);
  m.ops->add(*m.stream, c.dnorm, c.dnorm, c.router_x);
}

}  // namespace upcycle
