#include "parallel/model/transformer.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/flight_record.h"
#include "core/trace.h"
#include "kernels/ops.h"
#include "parallel/model/embedding.h"
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
  m.rope_table = arena.take(DType::F32, {positions, model.rotary_size()});
  m.activations = layout_activations(arena, model, m.sizes, mesh.layout, pass, ops.workspace_bytes(limits));
  const Scratch& c = m.activations.scratch;
  m.workspace = {c.workspace.data, c.workspace.bytes()};
  if (model.is_moe()) {
    const MoeBuffers rows = moe_buffers(m.sizes, mesh.layout, pass);
    m.dispatch_host = std::make_unique<DispatchHost>();
    if (arena.allocated()) *m.dispatch_host = make_dispatch_host(device, m.sizes, mesh.layout.ep, rows);
    for (std::int64_t l = 0; l < m.sizes.L; ++l) {
      Dispatch& d = m.activations.layers[static_cast<std::size_t>(l)].moe.dispatch;
      d = make_dispatch(l, m.sizes, mesh.layout.ep, rows, d.maps, c.dispatch, m.dispatch_host.get());
    }
  }
  if (arena.allocated()) {
    std::vector<float> host(static_cast<std::size_t>(m.rope_table.size()));
    fill_rope_table(Tensor(host.data(), DType::F32, {positions, model.rotary_size()}), model,
                    pass.sequences > 0 ? pass.positions : pass.S);
    device.copy_from_host(stream, m.rope_table.data, host.data(), m.rope_table.bytes());
    stream.synchronize();
    ops.prepare(limits);
  }
  return m;
}

void bind_weights(Transformer& m, const Tensor& dense, const Tensor& expert) {
  m.weights = view_weights(m.config, m.sizes, m.table, dense, expert);
}

void bind_gradients(Transformer& m, const PlaceOf& place_of) {
  m.gradients = view_weights(m.config, m.sizes, m.table, place_of);
}

namespace {

LayerState& state_of(Transformer& m, std::int64_t layer) {
  return m.activations.layers[static_cast<std::size_t>(layer)];
}

// For a function whose result is `out`: with tp = 1 its part of the sum is the sum.
SequenceBuffers sequence_buffers(const Transformer& m, const Tensor& out) {
  const Scratch& c = m.activations.scratch;
  return {c.gathered, c.dgathered, m.mesh->layout.tp > 1 ? c.partial : out};
}

NormWeight norm_weight(const ModelContext& m) {
  return m.config.norm_unit_offset ? NormWeight::UnitOffset : NormWeight::Plain;
}

// saved.out = the RMSNorm of x + delta, which becomes `sum`; without delta, of `sum` as it is.
void add_and_norm(const ModelContext& m, const NormState& saved, const Tensor& sum, const Tensor& x,
                  const Tensor& delta, const Tensor& weight) {
  m.ops->rms_norm_forward(*m.stream, saved.out, saved.rstd, delta ? sum : Tensor{}, delta ? x : sum, delta, weight,
                          static_cast<float>(m.config.rms_norm_eps), norm_weight(m));
}

// dx += the gradient of x from dout, that of the norm's output.
void norm_backward(const ModelContext& m, const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
                   const Tensor& weight, const NormState& saved) {
  m.ops->rms_norm_backward(*m.stream, m.workspace, dx, dweight, dout, x, weight, saved.rstd, norm_weight(m));
}

// x *= factor.
void scale_by(const ModelContext& m, const Tensor& x, double factor) {
  if (factor != 1) m.ops->scale(*m.stream, x, x, static_cast<float>(factor));
}

// On the embedding. Gemma's square root is rounded to the type of what it multiplies, as transformers does.
double embedding_factor(const ModelContext& m) {
  if (m.config.embedding_multiplier > 0) return m.config.embedding_multiplier;
  const auto root = static_cast<float>(std::sqrt(static_cast<double>(m.sizes.H)));
  return m.pass.dtype == DType::BF16 ? to_float(to_bf16(root)) : root;
}

// The two branches of a layer, attention and the MLP or the experts, have a norm each (norm_placement): of what it
// reads, kept in norm.out, or of what it gives, norm.in.

// What a branch reads: with sum = x + delta (without delta, sum as it is) its norm, or sum itself.
Tensor branch_input(const ModelContext& m, const NormState& norm, const Tensor& sum, const Tensor& x,
                    const Tensor& delta, const Tensor& weight) {
  if (!norm.in) {
    add_and_norm(m, norm, sum, x, delta, weight);
    return norm.out;
  }
  if (delta) m.ops->add(*m.stream, sum, x, delta);
  return sum;
}

// Where a branch writes whose addition to the residual is to be in `out`, and what then makes that addition of it.
Tensor branch_output(const NormState& norm, const Tensor& out) { return norm.in ? norm.in : out; }
void finish_branch(const ModelContext& m, const NormState& norm, const Tensor& out, const Tensor& weight) {
  if (norm.in) add_and_norm(m, {out, norm.rstd, {}}, norm.in, Tensor{}, Tensor{}, weight);
  scale_by(m, out, m.config.residual_multiplier);
}

// What a branch has read, for its backward: the norm of the residual x, made again if it was not kept, or x.
Tensor branch_input_again(const ModelContext& m, const NormState& norm, const Tensor& x, const Tensor& weight) {
  if (norm.in) return x;
  if (m.pass.recompute.norms) add_and_norm(m, norm, x, Tensor{}, Tensor{}, weight);
  return norm.out;
}

// The gradient of what a branch gives, from dx, that of the residual after it: dx itself, or in `dbranch`, by way of
// `scratch`.
Tensor branch_output_backward(const ModelContext& m, const NormState& norm, const Tensor& dbranch,
                              const Tensor& scratch, const Tensor& dweight, const Tensor& dx, const Tensor& weight) {
  Tensor dout = dx;
  if (m.config.residual_multiplier != 1) {
    dout = norm.in ? scratch : dbranch;
    m.ops->scale(*m.stream, dout, dx, static_cast<float>(m.config.residual_multiplier));
  }
  if (!norm.in) return dout;
  m.ops->fill(*m.stream, dbranch, 0);
  norm_backward(m, dbranch, dweight, dout, norm.in, weight, norm);
  return dbranch;
}

// dx += the gradient of the residual x through a branch, from dinput, that of what the branch reads.
void branch_input_backward(const ModelContext& m, const NormState& norm, const Tensor& dx, const Tensor& dweight,
                           const Tensor& dinput, const Tensor& x, const Tensor& weight) {
  if (norm.in)
    m.ops->add(*m.stream, dx, dx, dinput);
  else
    norm_backward(m, dx, dweight, dinput, x, weight, norm);
}

// One layer from its residual a.x = x + delta (without delta, a.x as it is): a.x_mid = a.x + attention, and what the
// MLP or the experts add to that, in `out`. Without `out`, what the backward reads, made again from a.x.
void layer_forward(Transformer& m, std::int64_t layer, const Tensor& out, const Tensor& x, const Tensor& delta,
                   const Batch& batch, double share, const CachedSequences* cached) {
  const TraceRange range("layer_forward");
  const InLayer place(layer);
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  LayerState& a = state_of(m, layer);
  const Scratch& c = m.activations.scratch;
  const Tensor attention_in = branch_input(m, a.attention_norm, a.x, x, delta, w.attention_norm);
  const Tensor attended = branch_output(a.attention_norm, c.branch);
  if (cached == nullptr)
    attention_forward(m, layer, w, attended, attention_in, a.attention, batch, sequence_buffers(m, attended));
  else
    attention_cached(m, layer, w, attended, attention_in, a.attention, batch.positions, *cached,
                     sequence_buffers(m, attended));
  finish_branch(m, a.attention_norm, c.branch, w.attention_norm);
  const Tensor mlp_in = branch_input(m, a.mlp_norm, a.x_mid, a.x, c.branch, w.mlp_norm);
  const Tensor mlp_out = out ? branch_output(a.mlp_norm, out) : Tensor{};
  const SequenceBuffers buffers = sequence_buffers(m, mlp_out);
  if (!m.config.is_moe_layer(layer))
    mlp_forward(m, w, mlp_out, mlp_in, a.mlp, buffers);
  else if (out)
    moe_forward(m, w, mlp_out, mlp_in, m.activations.metrics_of(layer), share, a.moe, c.moe, buffers);
  else
    moe_recompute(m, w, mlp_in, a.moe, c.moe, buffers);
  if (out) finish_branch(m, a.mlp_norm, out, w.mlp_norm);
}

// What a layer has made, `out` its last addition, once, in the forward: recomputed tensors are the same ones.
void show_layer(Transformer& m, std::int64_t layer, const Tensor& out) {
  if (m.observer == nullptr) return;
  const LayerState& a = state_of(m, layer);
  m.observer->activation(layer, "x", a.x);
  m.observer->activation(layer, "x_mid", a.x_mid);
  m.observer->activation(layer, "mlp_norm", a.mlp_norm.in ? a.mlp_norm.in : a.mlp_norm.out);
  if (m.config.is_moe_layer(layer)) {
    m.observer->activation(layer, "experts", a.moe.router.experts);
    m.observer->activation(layer, "weights", a.moe.router.weights);
  }
  m.observer->activation(layer, "mlp", out);
}

void show_gradient(const Transformer& m, std::int64_t layer, const char* name, const Tensor& dx) {
  if (m.observer != nullptr) m.observer->gradient(layer, name, dx);
}

// dx: the gradient of the layer's output -> of its input.
void layer_backward(Transformer& m, std::int64_t layer, const Tensor& dx, const Batch& batch, double share) {
  const TraceRange range("layer_backward");
  const InLayer place(layer);
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  const LayerWeights& g = m.gradients.layers[static_cast<std::size_t>(layer)];
  LayerState& a = state_of(m, layer);
  const Scratch& c = m.activations.scratch;
  const SequenceBuffers buffers = sequence_buffers(m, c.dnorm);
  const Tensor mlp_in = branch_input_again(m, a.mlp_norm, a.x_mid, w.mlp_norm);
  const Tensor dmlp = branch_output_backward(m, a.mlp_norm, c.branch, c.dnorm, g.mlp_norm, dx, w.mlp_norm);
  if (m.config.is_moe_layer(layer))
    moe_backward(m, w, g, c.dnorm, dmlp, mlp_in, share, a.moe, c.moe, buffers);
  else
    mlp_backward(m, w, g, c.dnorm, dmlp, mlp_in, a.mlp, c.mlp, buffers);
  branch_input_backward(m, a.mlp_norm, dx, g.mlp_norm, c.dnorm, a.x_mid, w.mlp_norm);
  show_gradient(m, layer, "dx_mid", dx);
  const Tensor attention_in = branch_input_again(m, a.attention_norm, a.x, w.attention_norm);
  const Tensor dattended =
      branch_output_backward(m, a.attention_norm, c.branch, c.dnorm, g.attention_norm, dx, w.attention_norm);
  attention_backward(m, layer, w, g, c.dnorm, dattended, attention_in, a.attention, batch, c.attention, buffers);
  branch_input_backward(m, a.attention_norm, dx, g.attention_norm, c.dnorm, a.x, w.attention_norm);
}

}  // namespace

void forward_hidden(Transformer& m, const Batch& batch, double share, const CachedSequences* cached) {
  UPCYCLE_CHECK(
      cached == nullptr || (static_cast<std::int64_t>(cached->layers.size()) == m.sizes.L && !m.pass.training),
      "a cache of {} layers for a model of {} that {}", cached->layers.size(), m.sizes.L,
      m.pass.training ? "trains" : "does not train");
  const Activations& a = m.activations;
  Tensor x = a.layers.front().x, delta;  // the residual is x + delta: the next norm adds
  m.arrivals.wait(*m.stream, -1);
  embedding_forward(m, x, m.weights.embedding, batch.tokens, sequence_buffers(m, x));
  scale_by(m, x, embedding_factor(m));
  for (std::int64_t l = 0; l < m.sizes.L; ++l) {
    m.arrivals.wait(*m.stream, l);
    layer_forward(m, l, a.scratch.branch, x, delta, batch, share, cached);
    show_layer(m, l, a.scratch.branch);
    x = state_of(m, l).x_mid;
    delta = a.scratch.branch;
  }
  m.arrivals.wait(*m.stream, m.sizes.L);
  add_and_norm(m, a.final_norm, a.x_last, x, delta, m.weights.final_norm);
  scale_by(m, a.final_norm.out, 1 / m.config.logits_scaling);
}

void set_rows(Transformer& m, const Activations& whole, std::int64_t T, std::int64_t padding) {
  const int tp = m.mesh->layout.tp;
  UPCYCLE_CHECK(!m.pass.training && T > 0 && T % tp == 0, "a pass of {} rows over {} tp ranks", T, tp);
  m.pass.B = 1;
  m.pass.S = T;
  m.pass.padding = padding;
  take_first_rows(m.activations, whole, T, T / tp);
}

void forward(Transformer& m, const Batch& batch, double share) {
  const Activations& a = m.activations;
  if (m.observer != nullptr) {
    m.observer->begin_microbatch();
    m.observer->activation(-1, "tokens", batch.tokens);
    m.observer->activation(-1, "targets", batch.targets);
  }
  forward_hidden(m, batch, share);
  head_forward(m, m.weights.head, a.loss_sum, a.final_norm.out, batch.targets, a.head, sequence_buffers(m, Tensor{}));
  if (m.observer != nullptr) {
    m.observer->activation(-1, "final_norm", a.final_norm.out);
    m.observer->activation(-1, "nll", a.head.nll);
  }
}

void backward(Transformer& m, const Batch& batch, const LossScale& scale, const GradientsReady& ready) {
  UPCYCLE_CHECK(m.pass.training, "backward of a model that was laid out for inference");
  const Activations& a = m.activations;
  const Tensor &dx = a.scratch.dx, &dnorm = a.scratch.dnorm;
  const auto complete = [&](std::int64_t layer) {
    if (ready) ready(layer);
  };
  head_backward(m, m.weights.head, m.gradients.head, dnorm, a.final_norm.out, batch.targets,
                scale.valid_tokens_global > 0 ? static_cast<float>(1 / scale.valid_tokens_global) : 0.0f, a.head,
                sequence_buffers(m, dnorm));
  scale_by(m, dnorm, 1 / m.config.logits_scaling);
  m.ops->fill(*m.stream, dx, 0);
  norm_backward(m, dx, m.gradients.final_norm, dnorm, a.x_last, m.weights.final_norm, a.final_norm);
  show_gradient(m, -1, "dx", dx);
  complete(m.sizes.L);
  for (std::int64_t l = m.sizes.L - 1; l >= 0; --l) {
    if (m.pass.recompute.layer) layer_forward(m, l, Tensor{}, Tensor{}, Tensor{}, batch, 0, nullptr);
    layer_backward(m, l, dx, batch, scale.share());
    show_gradient(m, l, "dx", dx);
    complete(l);
  }
  scale_by(m, dx, embedding_factor(m));
  embedding_backward(m, m.gradients.embedding, dx, batch.tokens, sequence_buffers(m, Tensor{}));
  complete(-1);
}

void logits(Transformer& m, const Tensor& out, std::int64_t row, std::int64_t rows) {
  head_logits(m, m.weights.head, out, m.activations.final_norm.out, row, rows, sequence_buffers(m, Tensor{}));
}

void logits_of(Transformer& m, const Tensor& out, const Tensor& hidden, const Tensor& rows) {
  head_logits_of(m, m.weights.head, out, hidden, m.activations.final_norm.out, rows, sequence_buffers(m, Tensor{}));
}

}  // namespace upcycle
