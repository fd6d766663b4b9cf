#include "parallel/model/weights.h"

#include "core/check.h"
#include "core/rng.h"

namespace upcycle {
namespace {

Tensor place_in(const Tensor& flat, const ParamRow& row) {
  Tensor t(nullptr, flat.dtype, {0});
  if (flat) t.data = static_cast<char*>(flat.data) + static_cast<std::size_t>(row.offset) * size_of(flat.dtype);
  return t;
}

}  // namespace

Weights view_weights(const ModelConfig& model, const Sizes& s, const ParamTable& table, const Tensor& dense,
                     const Tensor& expert) {
  return view_weights(model, s, table, [&](const ParamRow& row) {
    return place_in(row.group == ParamGroup::Dense ? dense : expert, row);
  });
}

Weights view_weights(const ModelConfig& model, const Sizes& s, const ParamTable& table, const PlaceOf& place_of) {
  using enum ParamRole;
  // The tensor whose first rows are those of the parameter; it spans the rows packed behind it.
  const auto view = [&](std::initializer_list<std::int64_t> shape, ParamRole role, std::int64_t layer = -1,
                        std::int64_t first_expert = -1) {
    const ParamRow* row = table.find(role, layer, first_expert);
    UPCYCLE_CHECK(row != nullptr, "no parameter {}", canonical_name(role, layer, first_expert));
    const Tensor place = place_of(*row);
    return Tensor(place.data, place.dtype, shape);
  };
  Weights w;
  w.embedding = view({s.V_local, s.H}, Embedding);
  w.final_norm = view({s.H}, FinalNorm);
  w.head = model.tie_word_embeddings ? w.embedding : view({s.V_local, s.H}, Head);
  for (std::int64_t l = 0; l < s.L; ++l) {
    LayerWeights layer;
    layer.attention_norm = view({s.H}, AttentionNorm, l);
    layer.qkv = view({s.qkv_local, s.H}, Query, l);
    layer.attention_out = view({s.H, s.N_local * s.D}, AttentionOut, l);
    layer.mlp_norm = view({s.H}, MlpNorm, l);
    if (model.attention_bias != "none") layer.qkv_bias = view({s.qkv_local}, QueryBias, l);
    if (model.attention_bias == "all") layer.attention_out_bias = view({s.H}, AttentionOutBias, l);
    if (model.qk_norm != "none") {
      const bool full = model.qk_norm == "full";
      layer.q_norm = view({full ? s.N_local * s.D : s.D}, QueryNorm, l);
      layer.k_norm = view({full ? s.K_local * s.D : s.D}, KeyNorm, l);
    }
    const bool moe = model.is_moe_layer(l);
    if (!moe || model.shared_expert) {
      const std::int64_t width = moe ? s.shared_F_local : s.F_local;
      layer.gate_up = view({2 * width, s.H}, moe ? SharedGate : Gate, l);
      layer.down = view({s.H, width}, moe ? SharedDown : Down, l);
    }
    if (!moe && model.mlp_bias) {
      layer.gate_up_bias = view({2 * s.F_local}, GateBias, l);
      layer.down_bias = view({s.H}, DownBias, l);
    }
    if (moe && model.shared_expert_gate) layer.shared_expert_gate = view({s.H}, SharedExpertGate, l);
    if (moe) {
      layer.router = view({s.E, s.H}, Router, l);
      if (model.router_bias) {
        const ParamRow& row = *table.find(RouterBias, l);
        layer.router_bias = working_bias(row, place_of(row));
      }
      layer.expert_gate_up = view({s.E_local, 2 * s.moe_F_local, s.H}, ExpertGate, l, s.E_begin);
      layer.expert_down = view({s.E_local, s.H, s.moe_F_local}, ExpertDown, l, s.E_begin);
    }
    w.layers.push_back(layer);
  }
  return w;
}

Tensor working_bias(const ParamRow& row, const Tensor& place) {
  if (place.dtype == DType::F32) return Tensor(place.data, DType::F32, {row.columns});
  const std::size_t before = static_cast<std::size_t>(2 * row.columns) * size_of(place.dtype);
  return Tensor(static_cast<char*>(place.data) + before, DType::F32, {row.columns});
}

void write_working_bias(const ParamRow& row, const float* values, Staging& staging, const Tensor& dense) {
  if (dense.dtype != DType::F32) write_floats(staging, working_bias(row, place_in(dense, row)), values);
}

Tensor view_row(const ParamRow& row, const Tensor& dense, const Tensor& expert) {
  const Tensor place = place_in(row.group == ParamGroup::Dense ? dense : expert, row);
  return Tensor(place.data, place.dtype, {row.part.rows, row.part.columns});
}

namespace {

template <class T>
void draw(const ParamRow& row, const Rectangle& part, std::uint64_t seed, T* out) {
  const std::uint64_t key = rng::key_of(row.name);
#pragma omp parallel for
  for (std::int64_t r = 0; r < part.rows; ++r) {
    for (std::int64_t c = 0; c < part.columns; ++c) {
      const std::int64_t element = (part.row + r) * row.columns + part.column + c;
      const float x =
          row.initializer == Initializer::Ones ? 1.0f
          : row.initializer == Initializer::Zeros
              ? 0.0f
              : static_cast<float>(row.init_std * rng::normal(seed, key, static_cast<std::uint64_t>(element)));
      if constexpr (std::is_same_v<T, bf16>)
        out[r * part.columns + c] = to_bf16(x);
      else
        out[r * part.columns + c] = x;
    }
  }
}

}  // namespace

void draw_values(const ParamRow& row, const Rectangle& part, std::uint64_t seed, float* out) {
  draw(row, part, seed, out);
}

void initialize_weights(const ParamTable& table, std::uint64_t seed, Staging& staging, const Tensor& dense,
                        const Tensor& expert) {
  for (const ParamRow& row : table.rows) {
    const Tensor t = view_row(row, dense, expert);
    staging.write(t, [&](void* host, std::int64_t first, std::int64_t rows) {
      const Rectangle part{row.part.row + first, row.part.column, rows, row.part.columns};
      if (t.dtype == DType::BF16)
        draw(row, part, seed, static_cast<bf16*>(host));
      else
        draw(row, part, seed, static_cast<float*>(host));
    });
    if (row.role != ParamRole::RouterBias) continue;
    std::vector<float> rounded(static_cast<std::size_t>(row.columns));  // as the masters are made of the weights
    read_floats(staging, t, rounded.data());
    write_working_bias(row, rounded.data(), staging, dense);
  }
}

}  // namespace upcycle
