#pragma once
#include <functional>
#include <vector>

#include "core/arena.h"
#include "core/host_array.h"
#include "kernels/ops.h"
#include "parallel/comm/mesh.h"
#include "parallel/model/activations.h"
#include "parallel/model/arrivals.h"
#include "parallel/model/dispatch.h"
#include "parallel/model/weights.h"

namespace upcycle {

// One microbatch on the device: B sequences of S tokens, batch-major. The same on all tp ranks.
struct Batch {
  Tensor tokens;              // i32 (T)
  Tensor targets;             // i32 (T), -1: not counted
  Tensor positions;           // i32 (T), within the sequence, for RoPE
  PackedSequences sequences;  // attention stays within each
};

// Takes a batch's buffers; fill_batch_shape then writes what does not change from batch to batch: B sequences of S,
// positions from 0 (once, after the arena is allocated).
Batch take_batch(Arena& arena, const PassShape& pass);
void fill_batch_shape(Device& device, Stream& stream, const Batch& batch, const PassShape& pass);

// What the router did in a layer, summed over microbatches with their share of the valid tokens as weight; as
// Ops::router_losses orders them.
struct RouterMetrics {
  double aux = 0, z = 0, entropy = 0, load_max_over_mean = 0;
};

// A key/value cache of one sequence, for generation: rows [0, length) of every layer are filled.
struct KvCache {
  std::vector<Tensor> k, v;  // each (capacity, K_local D)
  Tensor offsets;            // i32 (2): 0 and the length including the rows being added
  std::int64_t length = 0, capacity = 0;
};

// One model on one rank: configuration, table, views of weights and gradients, activations. It owns no parameters; the
// trainer (or a reader) does. Layers are the functions below, each in its own file.
struct Transformer {
  ModelConfig config;
  Sizes sizes;
  PassShape pass;
  Device* device;
  Stream* stream;
  Ops* ops;
  const Mesh* mesh;
  ParamTable table;
  Weights weights, gradients;  // gradients have no data when not training
  Arrivals arrivals;           // of parts of the weights
  Activations activations;
  Tensor rope_table;                // fp32 (max positions, D)
  std::vector<DispatchPlan> plans;  // a layer: where its tokens' rows went (MoE models)
  bool warned_of_rounds = false;
  HostArray<std::int32_t> host_counts;           // (ep, chunks, E): what the host must know of a layer's routing
  HostArray<std::int32_t> host_pad, host_unpad;  // (R), (received): see MoeState
  std::vector<std::int64_t> host_next;           // (E_local)
  std::unique_ptr<Stream> copies;                // of the counts, beside the ops

  std::int64_t T() const { return pass.T(); }
  std::int64_t T_local() const { return pass.T() / mesh->layout.tp; }
  Workspace workspace() const { return {activations.scratch.workspace.data, activations.scratch.workspace.bytes()}; }
};

// Everything but parameters, laid out in `arena` (planning or allocated): call once each way. `weights` views are set
// by bind_weights. Fills the RoPE table and prepares the ops when the arena is allocated.
Transformer make_transformer(Arena& arena, const ModelConfig& model, const PassShape& pass, Device& device,
                             Stream& stream, Ops& ops, const Mesh& mesh);

void bind_weights(Transformer& m, const Tensor& dense, const Tensor& expert);
void bind_gradients(Transformer& m, const Tensor& dense, const Tensor& expert);

// The weight of a microbatch in the step's loss.
struct LossScale {
  double valid_tokens_global = 0;  // of the whole step, all ranks; known before the forward
  double valid_tokens = 0;         // of this microbatch
  double share() const { return valid_tokens_global > 0 ? valid_tokens / valid_tokens_global : 0; }
};

// Runs the layers up to the final norm, each as soon as its weights have arrived. Router metrics are added with weight
// `share`. `cache`: append this pass's keys and values to it and attend to all of them (B = 1, tp = 1, not training).
void forward_hidden(Transformer& m, const Batch& batch, double share, KvCache* cache = nullptr);

// forward_hidden, then the cross-entropy: activations.nll (T) and loss_sum += its sum.
void forward(Transformer& m, const Batch& batch, double share);

// Told by backward when a part of the model has its gradients complete, in this order: L (final norm and head), the
// layers from the last to the first, -1 (embedding); as Bucket::layer counts them.
using GradientsReady = std::function<void(std::int64_t layer)>;

// After forward() of the same batch: adds the gradients of  sum(nll) / valid_tokens_global + the router losses.
void backward(Transformer& m, const Batch& batch, const LossScale& scale, const GradientsReady& ready = {});

// Logits fp32 (rows, V_local) of rows [row, row + rows) of T: this tp rank's part of the vocabulary, padding included.
void logits(Transformer& m, const Tensor& out, std::int64_t row, std::int64_t rows);

// ---- the layers; "_forward" leaves its addition to the residual in scratch.branch ----
void embedding_forward(Transformer& m, const Batch& batch, const Tensor& out);  // out (T_local, H)
void embedding_backward(Transformer& m, const Batch& batch, const Tensor& dx);

void attention_forward(Transformer& m, std::int64_t layer, const Batch& batch, KvCache* cache);
void mlp_forward(Transformer& m, std::int64_t layer, bool replay);
// `replay`: recompute for the backward. The saved routing is used again (it must never be chosen twice), metrics are
// not added, and the addition to the residual, which the backward does not read, is left out.
void moe_forward(Transformer& m, std::int64_t layer, double share, bool replay);

// "_backward" reads the gradient of the branch from scratch.dx and overwrites scratch.dnorm with that of the norm's
// output, which the caller pushes through the norm into dx.
void attention_backward(Transformer& m, std::int64_t layer, const Batch& batch);
void mlp_backward(Transformer& m, std::int64_t layer);
void moe_backward(Transformer& m, std::int64_t layer, double share);

// Dense MLP (or the shared expert) on all T rows: input (T, H) -> out (T, H), this tp rank's part of the sum (left out
// where `out` has no data).
void mlp_partial_forward(Transformer& m, std::int64_t layer, const Tensor& out, const Tensor& input);
void mlp_partial_backward(Transformer& m, std::int64_t layer, const Tensor& dinput, const Tensor& dout,
                          const Tensor& input);

// The router of one MoE layer: fp32 logits of mlp_norm and top-k; then statistics and the losses' coefficients.
void route(Transformer& m, std::int64_t layer, bool replay);
void route_losses(Transformer& m, std::int64_t layer, double share);
// dnorm += the router's gradient to its input; scratch.dweights (T_local, k) is the gradient of the chosen weights.
void route_backward(Transformer& m, std::int64_t layer, double share);

void head_forward(Transformer& m, const Batch& batch);
void head_backward(Transformer& m, const Batch& batch, float scale);  // -> scratch.dnorm (T_local, H)

// ---- sequence parallelism: identity when tp = 1 ----
// (T_local, H) of every tp rank -> (T, H): `x` itself, or scratch `into`.
Tensor gather_sequence(Transformer& m, const Tensor& x, const Tensor& into);
// Where a layer's partial sums (T, H) should be written: `out` itself when tp = 1, else scratch.partial...
Tensor partial_buffer(Transformer& m, const Tensor& out);
// ... and summed over tp into this rank's rows `out` (T_local, H).
void reduce_sequence(Transformer& m, const Tensor& out);

}  // namespace upcycle
