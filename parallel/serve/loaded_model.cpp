#include "parallel/serve/loaded_model.h"

#include "parallel/checkpoint/load.h"
#include "parallel/model/transformer.h"

#include "core/check.h"
#include "core/error.h"

namespace upcycle {

LoadedModel load_model(TensorSource& source, DType dtype, Device& device, Stream& stream, Ops& ops) {
  LoadedModel m;
  m.device = &device;
  m.stream = &stream;
  m.ops = &ops;
  m.mesh = std::make_unique<Mesh>(make_single_mesh(device, stream));
  m.config = source.model();
  m.dtype = dtype;
  m.table = make_param_table(m.config, m.mesh->layout, m.mesh->at);
  const auto layout = [&] {
    m.dense = m.weights.take(dtype, {m.table.dense.size});
    m.expert = m.weights.take(dtype, {m.table.expert.size});
  };
  layout();
  m.weights.allocate(*m.device);
  layout();
  Staging staging(device, stream);
  load_weights(m.table, source, staging, m.dense, m.expert);
  return m;
}

Pass::Pass() = default;
Pass::~Pass() = default;
Pass::Pass(Pass&&) noexcept = default;
Pass& Pass::operator=(Pass&&) noexcept = default;

Pass make_pass(const LoadedModel& m, std::int64_t B, std::int64_t S, std::int64_t positions) {
  if (S > m.config.max_position_embeddings)
    input_error("a sequence of {} tokens is longer than the model's max_position_embeddings {}; shorten it", S,
                m.config.max_position_embeddings);
  Pass pass;
  PassShape shape;
  shape.B = B;
  shape.S = S;
  shape.positions = positions;
  shape.training = false;
  shape.dtype = m.dtype;
  const auto layout = [&] {
    pass.model = std::make_unique<Transformer>(
        make_transformer(pass.arena, m.config, shape, *m.device, *m.stream, *m.ops, *m.mesh));
    pass.batch = take_batch(pass.arena, shape);
  };
  layout();
  pass.arena.allocate(*m.device);
  layout();
  fill_batch_shape(*m.device, *m.stream, pass.batch, shape);
  bind_weights(*pass.model, m.dense, m.expert);
  return pass;
}

void set_batch(Pass& pass, std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets) {
  Transformer& m = *pass.model;
  UPCYCLE_CHECK(static_cast<std::int64_t>(tokens.size()) == m.T() && tokens.size() == targets.size(),
                "{} tokens and {} targets for a pass of {}", tokens.size(), targets.size(), m.T());
  m.device->copy_from_host(*m.stream, pass.batch.tokens.data, tokens.data(), tokens.size_bytes());
  m.device->copy_from_host(*m.stream, pass.batch.targets.data, targets.data(), targets.size_bytes());
  m.stream->synchronize();
}

}  // namespace upcycle
