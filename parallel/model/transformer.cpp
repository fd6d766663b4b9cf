#include "parallel/model/transformer.h"

#include <algorithm>

#include "core/trace.h"
#include "parallel/model/rope.h"

namespace upcycle {

Transformer make_transformer(Arena& arena, const ModelConfig& model, const PassShape& pass, Device& device,
                             Stream& stream, Ops& ops, const Mesh& mesh) {
  Transformer m{};
  m.config = model;
  m.pass = pass;
  m.device = &device;
  m.stream = &stream;
  m.ops = &ops;
  m.mesh = &mesh;
  m.sizes = sizes_of(model, mesh.layout, mesh.at);
  m.table = make_param_table(model, mesh.layout, mesh.at);
  const OpLimits limits = op_limits(m.sizes, pass, mesh.layout);
  const std::int64_t positions = std::max(pass.S, pass.positions);
  m.rope_table = arena.take(DType::F32, {positions, m.sizes.D});
  m.activations = layout_activations(arena, model, m.sizes, mesh.layout, pass, ops.workspace_bytes(limits));
  if (model.is_moe()) {
    const MoeBuffers buffers = moe_buffers(m.sizes, mesh.layout, pass);
    m.plans.assign(static_cast<std::size_t>(m.sizes.L), make_plan(m.sizes, mesh.layout.ep, buffers.chunks));
    if (arena.allocated()) {
      const auto counts = static_cast<std::size_t>(mesh.layout.ep * buffers.chunks * m.sizes.E);
      m.host_counts = HostArray<std::int32_t>(device, counts);
      m.host_pad = HostArray<std::int32_t>(device, static_cast<std::size_t>(buffers.rows));
      m.host_unpad = HostArray<std::int32_t>(device, static_cast<std::size_t>(buffers.received));
      m.host_next.resize(static_cast<std::size_t>(m.sizes.E_local));
      m.copies = stream.make_companion();
    }
  }
  if (arena.allocated()) {
    std::vector<float> host(static_cast<std::size_t>(m.rope_table.size()));
    fill_rope_table(Tensor(host.data(), DType::F32, {positions, m.sizes.D}), model);
    device.copy_from_host(stream, m.rope_table.data, host.data(), m.rope_table.bytes());
    stream.synchronize();
    ops.prepare(limits);
  }
  return m;
}

void bind_weights(Transformer& m, const Tensor& dense, const Tensor& expert) {
  m.weights = view_weights(m.config, m.sizes, m.table, dense, expert);
}

void bind_gradients(Transformer& m, const Tensor& dense, const Tensor& expert) {
  m.gradients = view_weights(m.config, m.sizes, m.table, dense, expert);
}

namespace {

// One layer from its input x; the MLP's addition is left in scratch.branch. `delta`: what the layer before left there,
// added to `previous` as this layer's x (the first layer, and a recomputed one, start from x itself).
void layer_forward(Transformer& m, std::int64_t layer, const Batch& batch, const Tensor& previous, bool add_delta,
                   double share, bool replay, KvCache* cache) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const LayerState& a = m.activations.layers[l];
  const Tensor branch = m.activations.scratch.branch;
  const auto eps = static_cast<float>(m.config.rms_norm_eps);
  const TraceRange range("layer_forward");
  if (add_delta) {
    m.ops->rms_norm_forward(*m.stream, a.attention_norm, a.attention_rstd, a.x, previous, branch, w.attention_norm,
                            eps);
  } else {
    m.ops->rms_norm_forward(*m.stream, a.attention_norm, a.attention_rstd, Tensor{}, a.x, Tensor{}, w.attention_norm,
                            eps);
  }
  attention_forward(m, layer, batch, cache);
  m.ops->rms_norm_forward(*m.stream, a.mlp_norm, a.mlp_rstd, a.x_mid, a.x, branch, w.mlp_norm, eps);
  if (m.config.is_moe_layer(layer)) {
    moe_forward(m, layer, share, replay);
  } else {
    mlp_forward(m, layer, replay);
  }
}

// scratch.dx: gradient of the layer's output -> of its input.
void layer_backward(Transformer& m, std::int64_t layer, const Batch& batch, double share) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const LayerWeights& g = m.gradients.layers[l];
  const LayerState& a = m.activations.layers[l];
  const Scratch& c = m.activations.scratch;
  const TraceRange range("layer_backward");
  if (m.config.is_moe_layer(layer)) {
    moe_backward(m, layer, share);
  } else {
    mlp_backward(m, layer);
  }
  m.ops->rms_norm_backward(*m.stream, m.workspace(), c.dx, g.mlp_norm, c.dnorm, a.x_mid, w.mlp_norm, a.mlp_rstd);
  attention_backward(m, layer, batch);
  m.ops->rms_norm_backward(*m.stream, m.workspace(), c.dx, g.attention_norm, c.dnorm, a.x, w.attention_norm,
                           a.attention_rstd);
}

}  // namespace

void forward_hidden(Transformer& m, const Batch& batch, double share, KvCache* cache) {
  const Activations& a = m.activations;
  m.arrivals.wait(*m.stream, -1);
  embedding_forward(m, batch, a.layers.front().x);
  for (std::int64_t l = 0; l < m.sizes.L; ++l) {
    m.arrivals.wait(*m.stream, l);
    const Tensor previous = l == 0 ? Tensor{} : a.layers[static_cast<std::size_t>(l - 1)].x_mid;
    layer_forward(m, l, batch, previous, l > 0, share, false, cache);
  }
  m.arrivals.wait(*m.stream, m.sizes.L);
  m.ops->rms_norm_forward(*m.stream, a.final_norm, a.final_rstd, a.x_last, a.layers.back().x_mid, a.scratch.branch,
                          m.weights.final_norm, static_cast<float>(m.config.rms_norm_eps));
  if (cache != nullptr) cache->length += m.T();
}

void forward(Transformer& m, const Batch& batch, double share) {
  forward_hidden(m, batch, share);
  head_forward(m, batch);
}

void backward(Transformer& m, const Batch& batch, const LossScale& scale, const GradientsReady& ready) {
  UPCYCLE_CHECK(m.pass.training, "backward of a model that was laid out for inference");
  const Activations& a = m.activations;
  const Scratch& c = a.scratch;
  head_backward(m, batch, scale.valid_tokens_global > 0 ? static_cast<float>(1 / scale.valid_tokens_global) : 0.0f);
  m.ops->fill(*m.stream, c.dx, 0);
  m.ops->rms_norm_backward(*m.stream, m.workspace(), c.dx, m.gradients.final_norm, c.dnorm, a.x_last,
                           m.weights.final_norm, a.final_rstd);
  const auto complete = [&](std::int64_t layer) {
    if (ready) ready(layer);
  };
  complete(m.sizes.L);
  for (std::int64_t l = m.sizes.L - 1; l >= 0; --l) {
    if (m.pass.recompute == Recompute::Full) layer_forward(m, l, batch, Tensor{}, false, scale.share(), true, nullptr);
    layer_backward(m, l, batch, scale.share());
    complete(l);
  }
  embedding_backward(m, batch, c.dx);
  complete(-1);
}

}  // namespace upcycle
