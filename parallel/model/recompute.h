#pragma once
#include <string_view>

namespace upcycle {

// What of a layer's activations the backward makes again; true: it lies in memory that the layers share, one layer's at
// a time. The same ops on the same inputs: losses and gradients keep their bits.
struct Recompute {
  bool attention = false;  // qkv (rotated), the heads' output and lse, from the normed input
  bool swiglu = false;     // the MLP's and the experts' act, from gate_up
  bool mlp = false;        // gate_up, from the normed input (of experts: from the rows that they received)
  bool norms = false;      // the norms' outputs, from the residuals
  bool layer = false;      // everything but x and the routing, from x: by a second forward of the layer

  Recompute others() const { return {!attention, !swiglu, !mlp, !norms, !layer}; }
};

// Of train.recompute, which was checked: none, selective (swiglu and norms: what costs no product), full, or classes
// joined by commas; mlp is swiglu too.
Recompute recompute_of(std::string_view value);

}  // namespace upcycle
