#include "parallel/model/activations.h"

#include "core/error.h"
#include "parallel/model/moe_buffers.h"
#include "parallel/model/qk_norm.h"

namespace upcycle {
namespace {

// Memory classes beside the arena's own.
constexpr const char *kDispatchBuffers = "dispatch buffers", *kScratch = "scratch";

bool counts_global_batch(const ModelConfig& model, const PassShape& pass) {
  return pass.training && model.is_moe() && model.router_aux_loss_scope == "global_batch";
}

// F_local of a layer's dense MLP or shared expert; 0: it has neither.
std::int64_t mlp_width(const ModelConfig& model, const Sizes& s, std::int64_t layer) {
  if (!model.is_moe_layer(layer)) return s.F_local;
  return model.shared_expert ? s.shared_F_local : 0;
}

std::int64_t widest_mlp(const ModelConfig& model, const Sizes& s) {
  std::int64_t widest = 0;
  for (std::int64_t l = 0; l < s.L; ++l) widest = std::max(widest, mlp_width(model, s, l));
  return widest;
}

// The layer's part of memory that all layers share.
Tensor first_columns(const Tensor& all, std::int64_t columns) {
  return all ? Tensor(all.data, all.dtype, {all.rows(), columns}) : all;
}

// What the norm of a branch's output reads: its backward can not make it from what the layer keeps.
void take_post_norm(Arena& arena, NormState& norm, DType dtype, std::int64_t T_local, std::int64_t H) {
  norm.in = arena.take(dtype, {T_local, H});
  norm.rstd = arena.take(DType::F32, {T_local});
}

// The parts of one layer's activations that its backward can make again (recompute.h). `mlp`: see mlp_width.
void take_parts(Arena& arena, LayerState& layer, const Recompute& parts, const ModelConfig& model, const Sizes& s,
                const Layout& layout, const PassShape& pass, std::int64_t mlp, bool moe) {
  const std::int64_t T = pass.T(), T_local = T / layout.tp;
  const DType dtype = pass.dtype;
  const MoeBuffers b = moe ? moe_buffers(s, layout, pass) : MoeBuffers{};
  const bool post = model.norm_placement == "post";
  if (parts.norms && !post)
    for (NormState* norm : {&layer.attention_norm, &layer.mlp_norm}) {
      norm->rstd = arena.take(DType::F32, {T_local});
      norm->out = arena.take(dtype, {T_local, s.H});
    }
  if (parts.attention) {
    layer.attention.qkv = arena.take(dtype, {T, s.qkv_local});
    layer.attention.heads = arena.take(dtype, {T, s.N_local * s.D});
    layer.attention.lse = arena.take(DType::F32, {s.N_local, T});
    if (model.qk_norm != "none") {
      layer.attention.qk = arena.take(dtype, {T, (s.N_local + s.K_local) * s.D});
      layer.attention.squares = arena.take(DType::F32, {qk_norm_numbers(model, s, T)});
    }
  }
  if (parts.mlp) {
    if (mlp > 0) layer.mlp.gate_up = arena.take(dtype, {T, 2 * mlp});
    if (moe) layer.moe.experts.gate_up = arena.take(dtype, {b.rows, 2 * s.moe_F_local});
  }
  if (parts.swiglu) {
    if (mlp > 0) layer.mlp.act = arena.take(dtype, {T, mlp});
    if (moe) layer.moe.experts.act = arena.take(dtype, {b.rows, s.moe_F_local});
  }
  if (!parts.layer) return;
  layer.x_mid = arena.take(dtype, {T_local, s.H});
  if (post) take_post_norm(arena, layer.attention_norm, dtype, T_local, s.H);
  if (!moe) return;
  RouterState& router = layer.moe.router;
  router.probs = arena.take(DType::F32, {T_local, s.E});
  router.weights = arena.take(DType::F32, {T_local, s.k});
  router.lse = arena.take(DType::F32, {T_local});
  if (pass.training && model.router_score == "sigmoid") router.logits = arena.take(DType::F32, {T_local, s.E});
  layer.moe.experts.input = arena.take(dtype, {b.rows, s.H});
  layer.moe.experts.output = arena.take(dtype, {b.slots, s.H});
}

// What a layer keeps even when the rest is computed again.
void take_kept(Arena& arena, LayerState& layer, const ModelConfig& model, const Sizes& s, const Layout& layout,
               const PassShape& pass, std::int64_t T_local, bool moe) {
  layer.x = arena.take(pass.dtype, {T_local, s.H});
  if (model.norm_placement == "post") take_post_norm(arena, layer.mlp_norm, pass.dtype, T_local, s.H);
  if (!moe) return;
  RouterState& router = layer.moe.router;
  router.experts = arena.take(DType::I32, {T_local, s.k});
  router.stats = arena.take(DType::F64, {2 * s.E + 2});
  router.expert_scale = arena.take(DType::F32, {s.E});
  const MoeBuffers b = moe_buffers(s, layout, pass);
  const ArenaLabel label(arena, kDispatchBuffers);
  DispatchMaps& maps = layer.moe.dispatch.maps;
  maps.counts = arena.take(DType::I32, {b.chunks, s.E});
  maps.source = arena.take(DType::I32, {b.slots});
  maps.slot = arena.take(DType::I32, {b.tokens, s.k});
  if (layout.ep > 1) {
    maps.pad = arena.take(DType::I32, {b.rows});
    maps.unpad = arena.take(DType::I32, {b.received});
  }
}

Scratch take_scratch(Arena& arena, const ModelConfig& model, const Sizes& s, const Layout& layout,
                     const PassShape& pass, std::int64_t T_local, std::size_t workspace_bytes) {
  const std::int64_t T = pass.T();
  const DType dtype = pass.dtype;
  const ArenaLabel scratch(arena, kScratch);
  Scratch c;
  c.workspace = arena.take(DType::F32, {static_cast<std::int64_t>((workspace_bytes + 3) / 4)});
  if (!pass.training) c.logits_row = arena.take(DType::F32, {1, s.V_local});
  c.branch = arena.take(dtype, {T_local, s.H});
  if (layout.tp > 1) {
    c.gathered = arena.take(dtype, {T, s.H});
    c.partial = arena.take(dtype, {T, s.H});
  }
  if (pass.training) {
    c.dx = arena.take(dtype, {T_local, s.H});
    c.dnorm = arena.take(dtype, {T_local, s.H});
    if (layout.tp > 1) c.dgathered = arena.take(dtype, {T, s.H});
  }
  const std::size_t shared = arena.mark();
  if (pass.training) {
    c.attention.dqkv = arena.take(dtype, {T, s.qkv_local});
    c.attention.dheads = arena.take(dtype, {T, s.N_local * s.D});
    if (model.qk_norm != "none") c.attention.dots = arena.take(DType::F32, {qk_norm_numbers(model, s, T)});
  }
  const std::size_t attention_end = arena.mark();
  arena.release_to(shared);
  if (const std::int64_t widest = widest_mlp(model, s); pass.training && widest > 0) {
    const Tensor dgate_up = arena.take(dtype, {T, 2 * widest}), dact = arena.take(dtype, {T, widest});
    c.mlp = {first_columns(dgate_up, 2 * s.F_local), first_columns(dact, s.F_local), {}};
    c.moe.shared = {first_columns(dgate_up, 2 * s.shared_F_local), first_columns(dact, s.shared_F_local), {}};
    if (model.shared_expert_gate) c.moe.shared.dlogits = arena.take(DType::F32, {T});
  }
  if (model.is_moe()) {
    const MoeBuffers b = moe_buffers(s, layout, pass);
    c.moe.router.x = arena.take(DType::F32, {T_local, s.H});
    c.moe.router.w = arena.take(DType::F32, {s.E, s.H});
    c.moe.router.logits = arena.take(DType::F32, {T_local, s.E});
    if (pass.training && model.router_bias) {
      c.moe.router.experts = arena.take(DType::I32, {T_local, s.k});
      c.moe.router.weights = arena.take(DType::F32, {T_local, s.k});
      c.moe.router.stats = arena.take(DType::F64, {2 * s.E + 2});
    }
    if (counts_global_batch(model, pass)) c.moe.router.counted = arena.take(DType::F64, {s.E});
    if (layout.ep > 1) {
      const ArenaLabel label(arena, kDispatchBuffers);
      c.dispatch.slots = arena.take(dtype, {b.slots, s.H});
      c.dispatch.received = arena.take(dtype, {b.received, s.H});
      c.dispatch.all_counts = arena.take(DType::I32, {layout.ep, b.chunks, s.E});
    }
    if (layout.etp > 1) {
      c.moe.all_experts = arena.take(DType::I32, {b.tokens, s.k});
      c.moe.all_weights = arena.take(DType::F32, {b.tokens, s.k});
      if (pass.training) c.moe.all_dweights = arena.take(DType::F32, {b.tokens, s.k});
    }
    if (layout.ep > 1 || pass.training) c.moe.experts.rows = arena.take(dtype, {b.rows, s.H});
    if (pass.training) {
      c.moe.router.dlogits = arena.take(DType::F32, {T_local, s.E});
      c.moe.dweights = arena.take(DType::F32, {T_local, s.k});
      c.moe.experts.dgate_up = arena.take(dtype, {b.rows, 2 * s.moe_F_local});
      c.moe.experts.dact = arena.take(dtype, {b.rows, s.moe_F_local});
    }
  }
  arena.advance_to(attention_end);
  return c;
}

}  // namespace

OpLimits op_limits(const Sizes& s, const PassShape& pass, const Layout& layout) {
  OpLimits o;
  o.T = pass.T();
  o.H = s.H;
  o.F = s.F_local;
  o.N = s.N_local;
  o.K = s.K_local;
  o.D = s.D;
  o.V = s.V_local;
  o.E = s.E;
  o.k = s.k;
  o.moe_F = s.moe_F_local;
  o.bias = s.bias;
  o.head_norm = s.head_norm;
  o.R = s.E > 0 ? moe_buffers(s, layout, pass).rows : 0;
  o.keys = pass.sequences > 0 ? pass.positions : 0;
  o.sequences = pass.sequences;
  o.vocabulary = s.V_local * layout.tp;
  o.dtype = pass.dtype;
  return o;
}

Activations layout_activations(Arena& arena, const ModelConfig& model, const Sizes& s, const Layout& layout,
                               const PassShape& pass, std::size_t workspace_bytes) {
  if (pass.T() % layout.tp != 0)
    input_error(
        "micro_batch_size * seq_length = {} tokens can not be cut over parallel.tp = {}; choose a seq_length or "
        "micro_batch_size that it divides",
        pass.T(), layout.tp);
  const std::int64_t T = pass.T(), T_local = T / layout.tp;
  constexpr Recompute everything{true, true, true, true, true};
  // In memory that the layers share, and in each layer's own.
  const Recompute again = pass.training && !pass.recompute.layer ? pass.recompute : everything, kept = again.others();

  Activations a;
  LayerState shared;
  take_parts(arena, shared, again, model, s, layout, pass, widest_mlp(model, s), model.is_moe());
  if (!pass.training) take_kept(arena, shared, model, s, layout, pass, T_local, model.is_moe());
  for (std::int64_t l = 0; l < s.L; ++l) {
    const bool moe = model.is_moe_layer(l);
    const std::int64_t mlp = mlp_width(model, s, l);
    LayerState layer = shared;
    layer.mlp = {first_columns(shared.mlp.gate_up, 2 * mlp), first_columns(shared.mlp.act, mlp)};
    if (pass.training) take_kept(arena, layer, model, s, layout, pass, T_local, moe);
    take_parts(arena, layer, kept, model, s, layout, pass, mlp, moe);
    if (moe) layer.moe.shared = layer.mlp;
    a.layers.push_back(layer);
    if (pass.training) {
      Arena one_layer("what is made again");
      take_parts(one_layer, layer, again, model, s, layout, pass, mlp, moe);
      a.recomputed_bytes += one_layer.high_water();
    }
  }
  a.x_last = arena.take(pass.dtype, {T_local, s.H});
  a.final_norm.rstd = arena.take(DType::F32, {T_local});
  a.final_norm.out = arena.take(pass.dtype, {T_local, s.H});
  a.head.stats = arena.take(DType::F32, {layout.tp, T, 3});
  a.head.nll = arena.take(DType::F32, {T});
  a.head.lse = arena.take(DType::F32, {T});
  a.step_sums = arena.take(DType::F64, {1 + (4 + s.E) * s.L});
  a.loss_sum = a.step_sums.slice_rows(0, 1);
  if (counts_global_batch(model, pass)) {
    a.running = arena.take(DType::F64, {s.E * s.L});
    for (std::int64_t l = 0; l < s.L; ++l)
      if (model.is_moe_layer(l))
        a.layers[static_cast<std::size_t>(l)].moe.router.running = a.running.slice_rows(s.E * l, s.E * (l + 1));
  }
  a.scratch = take_scratch(arena, model, s, layout, pass, T_local, workspace_bytes);
  return a;
}

void take_first_rows(Activations& to, const Activations& whole, std::int64_t T, std::int64_t T_local) {
  const auto cut = [](Tensor& t, const Tensor& all, std::int64_t rows) {
    if (all) t = all.slice_rows(0, rows);
  };
  const auto cut_norm = [&](NormState& t, const NormState& all) {
    cut(t.out, all.out, T_local);
    cut(t.in, all.in, T_local);
    cut(t.rstd, all.rstd, T_local);
  };
  const auto cut_mlp = [&](MlpState& t, const MlpState& all) {
    cut(t.gate_up, all.gate_up, T);
    cut(t.act, all.act, T);
  };
  for (std::size_t l = 0; l < to.layers.size(); ++l) {
    LayerState& t = to.layers[l];
    const LayerState& all = whole.layers[l];
    cut(t.x, all.x, T_local);
    cut(t.x_mid, all.x_mid, T_local);
    cut_norm(t.attention_norm, all.attention_norm);
    cut_norm(t.mlp_norm, all.mlp_norm);
    cut(t.attention.qkv, all.attention.qkv, T);
    cut(t.attention.heads, all.attention.heads, T);
    cut(t.attention.qk, all.attention.qk, T);
    cut_mlp(t.mlp, all.mlp);
    cut_mlp(t.moe.shared, all.moe.shared);
    RouterState& router = t.moe.router;
    cut(router.experts, all.moe.router.experts, T_local);
    cut(router.probs, all.moe.router.probs, T_local);
    cut(router.weights, all.moe.router.weights, T_local);
    cut(router.lse, all.moe.router.lse, T_local);
  }
  cut(to.x_last, whole.x_last, T_local);
  cut_norm(to.final_norm, whole.final_norm);
  Scratch& t = to.scratch;
  const Scratch& all = whole.scratch;
  cut(t.gathered, all.gathered, T);
  cut(t.partial, all.partial, T);
  cut(t.branch, all.branch, T_local);
  cut(t.moe.router.x, all.moe.router.x, T_local);
  cut(t.moe.router.logits, all.moe.router.logits, T_local);
  cut(t.moe.all_experts, all.moe.all_experts, T);
  cut(t.moe.all_weights, all.moe.all_weights, T);
}

}  // namespace upcycle
