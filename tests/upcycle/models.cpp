#include "tests/upcycle/models.h"

#include "parallel/checkpoint/load.h"

#include "core/check.h"
#include "core/rng.h"
#include "parallel/model/transformer.h"

namespace upcycle::test {

DrawnModel::DrawnModel(const ModelConfig& model, std::uint64_t seed)
    : model_(model), table_(make_global_table(model)), seed_(seed) {}

void DrawnModel::read(const std::string& tensor, const Rectangle& part, float* out) {
  const ParamRow* row = table_.find(tensor);
  UPCYCLE_CHECK(row != nullptr, "no {}", tensor);
  UPCYCLE_CHECK(part.row >= 0 && part.column >= 0 && part.row + part.rows <= row->rows &&
                    part.column + part.columns <= row->columns,
                "{}: a rectangle outside of the matrix", tensor);
  const std::uint64_t key = rng::key_of(tensor);
  const double mean = (row->is_vector ? 1 : 0.1) * (rng::uniform(seed_, key, 1u << 30) + 0.5);
  const double std = 0.1 * (rng::uniform(seed_, key, 1u << 31) + 0.5);
  for (std::int64_t r = 0; r < part.rows; ++r)
    for (std::int64_t c = 0; c < part.columns; ++c)
      out[r * part.columns + c] = static_cast<float>(
          mean +
          std * rng::normal(seed_, key, static_cast<std::uint64_t>((part.row + r) * row->columns + part.column + c)));
}

ModelConfig dense_model() { return small_config().model; }

ModelConfig experts(std::int64_t E, std::int64_t k, std::int64_t moe_F, const std::string& softmax) {
  ModelConfig m;
  m.num_local_experts = E;
  m.num_experts_per_tok = k;
  m.moe_intermediate_size = moe_F;
  m.router_softmax = softmax;
  return m;
}

std::vector<float> read(TensorSource& source, const std::string& tensor, const Rectangle& part) {
  std::vector<float> values(static_cast<std::size_t>(part.size()));
  source.read(tensor, part, values.data());
  return values;
}

std::vector<float> read(TensorSource& source, const std::string& tensor) {
  const ParamTable table = make_global_table(source.model());
  const ParamRow* row = table.find(tensor);
  UPCYCLE_CHECK(row != nullptr, "no {}", tensor);
  return read(source, tensor, {0, 0, row->rows, row->columns});
}

std::string expert_name(std::int64_t layer, std::int64_t expert, const std::string& w) {
  return fmt::format("model.layers.{}.block_sparse_moe.experts.{}.{}.weight", layer, expert, w);
}

std::vector<float> logits_of(Rig& rig, const Mesh& mesh, TensorSource& source, DType dtype,
                             const std::vector<std::int32_t>& tokens) {
  const auto T = static_cast<std::int64_t>(tokens.size());
  PassShape pass;
  pass.S = T;
  pass.training = false;
  pass.dtype = dtype;
  Arena arena("test forward");
  Batch batch;
  Tensor dense, expert, out;
  const auto layout = [&] {
    Transformer m = make_transformer(arena, source.model(), pass, *rig.device, *rig.stream, *rig.ops, mesh);
    batch = take_batch(arena, pass);
    dense = arena.take(dtype, {m.table.dense.size});
    expert = arena.take(dtype, {m.table.expert.size});
    out = arena.take(DType::F32, {T, m.sizes.V});
    return m;
  };
  (void)layout();
  arena.allocate(*rig.device);
  Transformer m = layout();
  Staging staging(*rig.device, *rig.stream);
  load_weights(m.table, source, staging, dense, expert);
  bind_weights(m, dense, expert);
  fill_batch_shape(*rig.device, *rig.stream, batch, pass);
  rig.device->copy_from_host(*rig.stream, batch.tokens.data, tokens.data(), batch.tokens.bytes());
  forward_hidden(m, batch, 1);
  logits(m, out, 0, T);
  return values_of<float>(*rig.device, *rig.stream, out);
}

}  // namespace upcycle::test
