#include "launch/bench/family_ops.h"

#include "kernels/ops.h"

namespace upcycle {

std::vector<OpCase> family_cases(const Backend& b, const Operands& o) {
  Ops& ops = *b.ops;
  Stream& s = *b.stream;
  const Workspace w{o.scratch.data, o.scratch.bytes()};
  const std::int64_t width = o.N * o.D;
  const auto queries = [&o, width] { return o.qkv.slice_columns(0, width); };
  const Tensor drows = o.dgate_up.reshaped({2 * o.T, o.F}).slice_rows(0, o.T);
  ops.head_dots(s, o.squares, queries(), queries(), {});
  return {
      {"add_bias", 0, {&o.qkv, &o.qkv, &o.bias}, [=, &ops, &s, &o] { ops.add_bias(s, o.qkv, o.bias); }},
      {"bias_backward", 0, {&o.dqkv, &o.dbias}, [=, &ops, &s, &o] { ops.bias_backward(s, w, o.dbias, o.dqkv); }},
      {"head_dots",
       0,
       {&o.attention, &o.attention, &o.dots},
       [=, &ops, &s, &o] { ops.head_dots(s, o.dots, o.attention, queries(), o.head_weight); }},
      {"head_norm_forward",
       0,
       {&o.attention, &o.attention, &o.squares},
       [=, &ops, &s, &o] { ops.head_norm_forward(s, o.attention, queries(), o.head_weight, o.squares, o.D, 1e-5F); }},
      {"head_norm_backward",
       0,
       {&o.attention, &o.attention, &o.attention, &o.squares, &o.dots},
       [=, &ops, &s, &o] {
         ops.head_norm_backward(s, w, o.dqkv.slice_columns(0, width), o.head_grad, o.attention, queries(),
                                o.head_weight, o.squares, o.dots, o.D, 1e-5F);
       }},
      {"scale", 0, {&o.x, &o.y}, [=, &ops, &s, &o] { ops.scale(s, o.y, o.x, 0.5F); }},
      {"gate_rows_forward",
       0,
       {&o.mlp, &o.mlp, &o.x},
       [=, &ops, &s, &o] { ops.gate_rows_forward(s, o.mlp, o.gate_x, o.gate_weight); }},
      {"gate_rows_backward",
       0,
       {&o.mlp, &o.mlp, &o.mlp, &o.x, &o.rstd},
       [=, &ops, &s, &o] { ops.gate_rows_backward(s, drows, o.rstd, o.mlp, o.gate_x, o.gate_weight); }},
      {"gate_logits_backward",
       0,
       {&o.x, &o.y, &o.y, &o.rstd},
       [=, &ops, &s, &o] { ops.gate_logits_backward(s, w, o.y, o.fp32_h, o.rstd, o.gate_x, o.gate_weight); }},
  };
}

}  // namespace upcycle
