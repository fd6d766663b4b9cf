#include "parallel/train/router_bias.h"

#include <numeric>

#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/offload.h"

namespace upcycle {
namespace {

// Against the move: an update subtracts. Then 1, the update's scale.
void find_directions(Trainer& t) {
  const ModelConfig& model = t.config.model;
  const std::int64_t E = model.num_local_experts;
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l) {
    if (!model.is_moe_layer(l)) continue;
    const double* const load = t.host_sums.data() + 1 + (4 + E) * l + 4;
    const double mean = std::accumulate(load, load + E, 0.0) / static_cast<double>(E);
    float* const direction = t.bias_directions.data() + E * l;
    for (std::int64_t e = 0; e < E; ++e) direction[e] = load[e] > mean ? 1.0f : load[e] < mean ? -1.0f : 0.0f;
  }
  t.bias_directions[t.bias_directions.size() - 1] = 1;
}

// Directions of `size` biases of a layer from the first-th on, and the scale, in `all`.
Tensor directions_of(const Trainer& t, const Tensor& all, std::int64_t layer, std::int64_t first, std::int64_t size) {
  const std::int64_t begin = t.config.model.num_local_experts * layer + first;
  return all.slice_rows(begin, begin + size);
}
Tensor scale_of(const Tensor& all) { return all.slice_rows(all.rows() - 1, all.rows()); }

void move_master(Trainer& t, const OwnedPiece& p, float rate) {
  const auto directions = [&](const Tensor& all) {
    return directions_of(t, all, p.row->layer, p.part.column, p.part.size());
  };
  const Tensor master = master_piece(t.memory, p);
  if (t.optimizer.offload != nullptr) {
    Offload& f = *t.optimizer.offload;
    const Tensor here(t.bias_directions.data(), DType::F32, {static_cast<std::int64_t>(t.bias_directions.size())});
    f.ops->sgd(*f.on_cpu, {master, master, {}, {}, directions(here)}, scale_of(here), rate, 0);
    return;
  }
  const Tensor& all = t.biases.directions;
  t.ops->sgd(*t.stream, {piece_of(t.memory.weights, p), master, {}, {}, directions(all), ties_of(t.memory, p)},
             scale_of(all), rate, 0);
}

}  // namespace

RouterBiases take_router_biases(Arena& arena, const ModelConfig& model) {
  if (!model.is_moe() || !model.router_bias) return {};
  return {arena.take(DType::F32, {model.num_local_experts * model.num_hidden_layers + 1})};
}

void move_router_biases(Trainer& t) {
  const Optimizer& o = t.optimizer;
  const Tensor& all = t.biases.directions;
  if (!all) return;
  find_directions(t);
  t.device->copy_from_host(*t.stream, all.data, t.bias_directions.data(), all.bytes());
  o.arrivals->wait_all(*t.stream);  // in case no forward came between
  const auto rate = static_cast<float>(t.config.model.router_bias_update_rate);
  if (t.memory.separate_masters())
    for (const OwnedPiece& p : o.biases) move_master(t, p, rate);
  const Tensor& weights = t.memory.weights.dense;
  for (std::size_t i = 0; i < t.table().rows.size(); ++i) {
    const ParamRow& row = t.table().rows[i];
    if (row.role != ParamRole::RouterBias || o.frozen[i] != 0) continue;
    const Tensor bias = t.model->weights.layers[static_cast<std::size_t>(row.layer)].router_bias;
    t.ops->sgd(*t.stream, {bias, bias, {}, {}, directions_of(t, all, row.layer, 0, row.columns)}, scale_of(all), rate,
               0);
    if (weights.dtype != DType::F32)
      t.ops->convert(*t.stream, weights.slice_rows(row.offset, row.offset + row.columns), bias);
  }
}

}  // namespace upcycle
