#pragma once
#include "parallel/model/sequence_parallel.h"
#include "parallel/model/weights.h"

// Gated MLP (SwiGLU or GeGLU), dense or a MoE layer's shared expert, F cut over tp: gate and up are column-parallel,
// down is row-parallel.
namespace upcycle {

GateActivation gate_activation(const ModelConfig& model);

// What the backward reads of a forward.
struct MlpState {
  Tensor gate_up, act;  // (T, 2 F_local), (T, F_local)
};

struct MlpScratch {
  Tensor dgate_up, dact;  // as gate_up and act
  Tensor dlogits;         // fp32 (T): of a shared expert's gate
};

// out (T_local, H) = mlp of x (T_local, H). Without `out` only `saved` is computed.
void mlp_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                 const MlpState& saved, const SequenceBuffers& buffers);
// dx (T_local, H) = the gradient of x, from dout (T_local, H); weights' gradients are added to g.
void mlp_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                  const Tensor& dout, const Tensor& x, const MlpState& saved, const MlpScratch& scratch,
                  const SequenceBuffers& buffers);

// The same on all T rows, without the two operators and the bias of down, which is added to the sum: x, out, dx, dout
// (T, H); out and dx are this rank's part of a sum over tp.
void mlp_partial_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                         const MlpState& saved);
void mlp_partial_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                          const Tensor& dout, const Tensor& x, const MlpState& saved, const MlpScratch& scratch);

}  // namespace upcycle
