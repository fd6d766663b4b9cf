#pragma once
#include <functional>
#include <memory>

#include "parallel/model/activations.h"
#include "parallel/model/arrivals.h"
#include "parallel/model/dispatch.h"
#include "parallel/model/observer.h"
#include "parallel/model/params.h"
#include "parallel/model/weights.h"

namespace upcycle {

// One model on one rank: sizes and ops (the context that layers get), parameter table, views of weights and gradients,
// activations. It owns no parameters; the trainer (or a reader) does. The layers are functions of what they read and
// write, in a file each; transformer.cpp chooses which buffer serves as which.
struct Transformer : ModelContext {
  ParamTable table;
  Weights weights, gradients;  // gradients have no data when not training
  Arrivals arrivals;           // of parts of the weights
  Activations activations;
  std::unique_ptr<DispatchHost> dispatch_host;  // what planning the layers' transfers needs (MoE models)
  Observer* observer = nullptr;                 // null: nobody looks on
};

// Everything but parameters, laid out in `arena` (planning or allocated): call once each way. `weights` views are set
// by bind_weights. Fills the RoPE table and prepares the ops when the arena is allocated.
Transformer make_transformer(Arena& arena, const ModelConfig& model, const PassShape& pass, Device& device,
                             Stream& stream, Ops& ops, const Mesh& mesh);

void bind_weights(Transformer& m, const Tensor& dense, const Tensor& expert);
void bind_gradients(Transformer& m, const PlaceOf& place_of);  // fp32

// The weight of a microbatch in the step's loss.
struct LossScale {
  double valid_tokens_global = 0;  // of the whole step, all ranks; known before the forward
  double valid_tokens = 0;         // of this microbatch
  double share() const { return valid_tokens_global > 0 ? valid_tokens / valid_tokens_global : 0; }
};

// Runs the layers up to the final norm, each as soon as its weights have arrived. Router metrics are added with weight
// `share`. `cached`: what the rows' sequences are, if their earlier keys and values are in a cache; null: the batch's.
void forward_hidden(Transformer& m, const Batch& batch, double share, const CachedSequences* cached = nullptr);

// From here on a pass has T rows, a multiple of tp and at most as many as it was laid out for (inference); the last
// `padding` of them are no tokens. `whole`: the activations as they were laid out. Allocates nothing.
void set_rows(Transformer& m, const Activations& whole, std::int64_t T, std::int64_t padding);

// forward_hidden, then the cross-entropy: activations.head.nll (T) and loss_sum += its sum.
void forward(Transformer& m, const Batch& batch, double share);

// Told by backward when a part of the model has its gradients complete, in this order: L (final norm and head), the
// layers from the last to the first, -1 (embedding); as Bucket::layer counts them.
using GradientsReady = std::function<void(std::int64_t layer)>;

// After forward() of the same batch: adds the gradients of  sum(nll) / valid_tokens_global + the router losses.
void backward(Transformer& m, const Batch& batch, const LossScale& scale, const GradientsReady& ready = {});

// After forward_hidden: logits fp32 (rows, V_local) of rows [row, row + rows) of T, this tp rank's part of the
// vocabulary, padding included.
void logits(Transformer& m, const Tensor& out, std::int64_t row, std::int64_t rows);

// The same of `rows` i32 (n) of T, in any order: out fp32 (n, V_local); `hidden` (n, H) takes their inputs.
void logits_of(Transformer& m, const Tensor& out, const Tensor& hidden, const Tensor& rows);

}  // namespace upcycle
