#include "parallel/serve/loaded_model.h"

#include "core/check.h"
#include "core/error.h"
#include "parallel/checkpoint/load.h"
#include "parallel/model/rope.h"
#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

PassShape forward_only(DType dtype, std::int64_t B, std::int64_t S, bool documents) {
  PassShape shape;
  shape.B = B;
  shape.S = S;
  shape.documents = documents;
  shape.training = false;
  shape.dtype = dtype;
  return shape;
}

}  // namespace

LoadedModel load_model(TensorSource& source, DType dtype, const Mesh& mesh, Device& device, Stream& stream, Ops& ops) {
  LoadedModel m;
  m.device = &device;
  m.stream = &stream;
  m.ops = &ops;
  m.mesh = &mesh;
  m.config = source.model();
  m.dtype = dtype;
  m.table = make_param_table(m.config, mesh.layout, mesh.at);
  const auto layout = [&] {
    m.dense = m.weights.take(dtype, {m.table.dense.size});
    m.expert = m.weights.take(dtype, {m.table.expert.size});
  };
  layout();
  m.weights.allocate(*m.device);
  layout();
  Staging staging(device, stream);
  load_weights(m.table, source, staging, m.dense, m.expert, mesh.host.get());
  return m;
}

Pass::Pass() = default;
Pass::~Pass() = default;
Pass::Pass(Pass&&) noexcept = default;
Pass& Pass::operator=(Pass&&) noexcept = default;

Pass make_pass(const LoadedModel& m, std::int64_t B, std::int64_t S, bool documents) {
  if (S >= m.config.max_position_embeddings + m.mesh->layout.tp)
    input_error("a sequence of {} tokens is longer than the model's max_position_embeddings {}; shorten it", S,
                m.config.max_position_embeddings);
  check_sequence_length(m.config, S - m.mesh->layout.tp + 1, S, "this command");  // S may be filled up to a multiple
  Pass pass;
  const PassShape shape = forward_only(m.dtype, B, S, documents);
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

std::vector<MemoryClass> plan_pass(const ModelConfig& model, DType dtype, const Mesh& mesh, Ops& ops, std::int64_t B,
                                   std::int64_t S, bool documents) {
  Arena arena("activations");
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  const PassShape shape = forward_only(dtype, B, S, documents);
  const Transformer m = make_transformer(arena, model, shape, *device, *stream, ops, mesh);
  (void)take_batch(arena, shape);
  const auto elements = static_cast<std::size_t>(m.table.dense.size + m.table.expert.size);
  std::vector<MemoryClass> plan{{"weights", elements * size_of(dtype)}};
  plan.insert(plan.end(), arena.classes().begin(), arena.classes().end());
  plan.push_back({"collectives", collective_scratch_bytes(mesh.layout), true});
  return plan;
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
