#include <algorithm>
#include <cmath>

#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

RouterSoftmax softmax_order(const ModelConfig& model) {
  return model.router_softmax == "topk_then_softmax" ? RouterSoftmax::TopkThenSoftmax : RouterSoftmax::SoftmaxThenTopk;
}

// Load balancing (arXiv 2101.03961 with k: arXiv 2006.16668): aux = (E/k) sum_e f_e P_e, f_e = assignments_e / T, P_e
// the mean probability; uniform routing gives 1. T counts the tokens of all tp ranks, so the sums come first.
void account(Transformer& m, std::int64_t layer, double share) {
  const auto l = static_cast<std::size_t>(layer);
  const MoeState& moe = m.activations.layers[l].moe;
  const auto E = static_cast<std::size_t>(m.sizes.E);
  const double T = static_cast<double>(m.T()), k = static_cast<double>(m.sizes.k);
  m.stream->wait(m.mesh->tp->all_reduce(moe.stats));
  m.device->copy_to_host(*m.stream, m.host_stats.data(), moe.stats.data, moe.stats.bytes());
  m.stream->synchronize();
  const double* assigned = m.host_stats.data();
  const double* probability = assigned + E;
  double aux = 0;
  for (std::size_t e = 0; e < E; ++e) {
    const double f = assigned[e] / T;
    aux += static_cast<double>(E) / k * f * probability[e] / T;
    m.host_scale[e] = static_cast<float>(m.config.router_aux_loss_coef * share * static_cast<double>(E) / k * f / T);
  }
  m.device->copy_from_host(*m.stream, moe.expert_scale.data, m.host_scale.data(), moe.expert_scale.bytes());
  RouterMetrics& r = m.router_metrics[l];
  r.aux += share * aux;
  r.z += share * m.host_stats[2 * E] / T;
  r.entropy += share * m.host_stats[2 * E + 1] / T;
  r.load_max_over_mean += share * *std::max_element(assigned, assigned + E) * static_cast<double>(E) / (T * k);
}

}  // namespace

void route(Transformer& m, std::int64_t layer, double share, bool replay) {
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
  m.ops->router_stats(*m.stream, moe.stats, moe.probs, moe.experts, moe.lse);
  account(m, layer, share);
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
