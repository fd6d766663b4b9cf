#include "parallel/model/weights.h"

#include "core/rng.h"

namespace upcycle {
namespace {

// A tensor that begins at a row and runs over those packed behind it.
Tensor view_at(const ParamRow& first, const Tensor& flat, std::initializer_list<std::int64_t> shape) {
  Tensor t(nullptr, flat.dtype, shape);
  if (flat) t.data = static_cast<char*>(flat.data) + static_cast<std::size_t>(first.offset) * size_of(flat.dtype);
  return t;
}

}  // namespace

Weights view_weights(const ModelConfig& model, const Sizes& s, const ParamTable& table, const Tensor& dense,
                     const Tensor& expert) {
  const auto view = [&](const std::string& name, std::initializer_list<std::int64_t> shape) {
    const ParamRow* row = table.find(name);
    UPCYCLE_CHECK(row != nullptr, "no parameter {}", name);
    return view_at(*row, row->group == ParamGroup::Dense ? dense : expert, shape);
  };
  Weights w;
  w.embedding = view("model.embed_tokens.weight", {s.V_local, s.H});
  w.final_norm = view("model.norm.weight", {s.H});
  w.head = model.tie_word_embeddings ? w.embedding : view("lm_head.weight", {s.V_local, s.H});
  for (std::int64_t l = 0; l < s.L; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    LayerWeights layer;
    layer.attention_norm = view(p + "input_layernorm.weight", {s.H});
    layer.qkv = view(p + "self_attn.q_proj.weight", {s.qkv_local, s.H});
    layer.attention_out = view(p + "self_attn.o_proj.weight", {s.H, s.N_local * s.D});
    layer.mlp_norm = view(p + "post_attention_layernorm.weight", {s.H});
    const bool moe = model.is_moe_layer(l);
    if (!moe || model.shared_expert) {
      const std::string mlp = p + (moe ? "block_sparse_moe.shared_expert." : "mlp.");
      layer.gate_up = view(mlp + "gate_proj.weight", {2 * s.F_local, s.H});
      layer.down = view(mlp + "down_proj.weight", {s.H, s.F_local});
    }
    if (moe) {
      const std::string first = p + "block_sparse_moe.experts." + std::to_string(s.E_begin);
      layer.router = view(p + "block_sparse_moe.gate.weight", {s.E, s.H});
      layer.expert_gate_up = view(first + ".w1.weight", {s.E_local, 2 * s.moe_F_local, s.H});
      layer.expert_down = view(first + ".w2.weight", {s.E_local, s.H, s.moe_F_local});
    }
    w.layers.push_back(layer);
  }
  return w;
}

Tensor view_row(const ParamRow& row, const Tensor& dense, const Tensor& expert) {
  return view_at(row, row.group == ParamGroup::Dense ? dense : expert, {row.part.rows, row.part.columns});
}

namespace {

// Elements [row, row + rows) of a row's part.
template <class T>
void draw(const ParamRow& row, std::uint64_t seed, std::int64_t first, std::int64_t rows, T* out) {
  const std::uint64_t key = rng::key_of(row.name);
  const std::int64_t columns = row.part.columns;
#pragma omp parallel for
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t element = (row.part.row + first + r) * row.columns + row.part.column + c;
      const float x =
          row.initializer == Initializer::Ones
              ? 1.0f
              : static_cast<float>(row.init_std * rng::normal(seed, key, static_cast<std::uint64_t>(element)));
      if constexpr (std::is_same_v<T, bf16>)
        out[r * columns + c] = to_bf16(x);
      else
        out[r * columns + c] = x;
    }
  }
}

}  // namespace

void initialize_weights(const ParamTable& table, std::uint64_t seed, Staging& staging, const Tensor& dense,
                        const Tensor& expert) {
  for (const ParamRow& row : table.rows) {
    const Tensor t = view_row(row, dense, expert);
    staging.write(t, [&](void* host, std::int64_t first, std::int64_t rows) {
      if (t.dtype == DType::BF16)
        draw(row, seed, first, rows, static_cast<bf16*>(host));
      else
        draw(row, seed, first, rows, static_cast<float*>(host));
    });
  }
}

}  // namespace upcycle
