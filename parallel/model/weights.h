#pragma once
#include <functional>
#include <vector>

#include "core/staging.h"
#include "parallel/model/params.h"

namespace upcycle {

// The tensors of one layer on this rank, as views into flat buffers: of parameters (bf16 or fp32) or, in the same
// shape, of fp32 gradients.
struct LayerWeights {
  Tensor attention_norm;  // (H)
  Tensor qkv;             // ((N + 2K) D, H) -> (qkv_local, H): q rows, then k, then v
  Tensor attention_out;   // (H, N D) -> (H, N_local D)
  Tensor mlp_norm;        // (H)
  Tensor gate_up;         // (2F, H) -> (2 F_local, H): the dense MLP, or the shared expert, of shared_F
  Tensor down;            // (H, F) -> (H, F_local)
  Tensor router;          // (E, H)
  Tensor router_bias;     // fp32 (E), see working_bias; without data where the model has none
  Tensor expert_gate_up;  // (E, 2 moe_F, H) -> (E_local, 2 moe_F_local, H)
  Tensor expert_down;     // (E, H, moe_F) -> (E_local, H, moe_F_local)
  // Without data where the model has none:
  Tensor qkv_bias;            // ((N + 2K) D) -> (qkv_local)
  Tensor attention_out_bias;  // (H)
  Tensor q_norm, k_norm;      // (D) each; of the whole width (N D) -> (N_local D), (K D) -> (K_local D)
  Tensor gate_up_bias;        // (2F) -> (2 F_local), of a dense MLP
  Tensor down_bias;           // (H)
  Tensor shared_expert_gate;  // (H)
};

struct Weights {
  Tensor embedding;   // (V, H) -> (V_local, H)
  Tensor final_norm;  // (H)
  Tensor head;        // (V, H) -> (V_local, H); the embedding itself when tied
  std::vector<LayerWeights> layers;
};

// Views over flat buffers of the table's sizes (dense.size and expert.size elements).
Weights view_weights(const ModelConfig& model, const Sizes& sizes, const ParamTable& table, const Tensor& dense,
                     const Tensor& expert);

// Where a row's part begins: a flat tensor, of which data and type count. Rows that one tensor spans lie behind each
// other as in the flat buffers.
using PlaceOf = std::function<Tensor(const ParamRow& row)>;
Weights view_weights(const ModelConfig& model, const Sizes& sizes, const ParamTable& table, const PlaceOf& place_of);

// The row's part of a flat buffer: (part.rows, part.columns), contiguous.
Tensor view_row(const ParamRow& row, const Tensor& dense, const Tensor& expert);

// The biases that a router chooses by, fp32 (E), of a RouterBias row that begins at `place`, bf16 or fp32: there, or
// behind it (kRouterBiasRows).
Tensor working_bias(const ParamRow& row, const Tensor& place);
// What must follow whatever writes such a row's values, fp32 (E): its working biases.
void write_working_bias(const ParamRow& row, const float* values, Staging& staging, const Tensor& dense);

// The initial values of `part` of a parameter, in fp32, before they are rounded to its type: out (part.rows,
// part.columns).
void draw_values(const ParamRow& row, const Rectangle& part, std::uint64_t seed, float* out);

// Draws this rank's part of every parameter from (seed, name, global element): every layout starts from the same bits.
void initialize_weights(const ParamTable& table, std::uint64_t seed, Staging& staging, const Tensor& dense,
                        const Tensor& expert);

}  // namespace upcycle
