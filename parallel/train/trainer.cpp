#include "parallel/train/trainer.h"

#include "parallel/train/state.h"

namespace upcycle {
namespace {

std::int64_t microbatches_here(const Config& c, const Mesh& mesh) {
  const std::int64_t unit = c.train.micro_batch_size * mesh.layout.dp;
  if (c.train.global_batch_size % unit != 0)
    input_error(
        "train.global_batch_size: found {}, expected a multiple of train.micro_batch_size * dp = {} * {} = {}; use {}, "
        "or "
        "another micro_batch_size",
        c.train.global_batch_size, c.train.micro_batch_size, mesh.layout.dp, unit,
        (c.train.global_batch_size + unit - 1) / unit * unit);
  return c.train.global_batch_size / unit;
}

}  // namespace

PassShape training_pass(const Config& c) {
  PassShape pass;
  pass.B = c.train.micro_batch_size;
  pass.S = c.train.seq_length;
  pass.recompute = c.train.recompute == "full" ? Recompute::Full : Recompute::None;
  pass.dtype = c.storage();
  pass.imbalance_factor = c.parallel.imbalance_factor;
  pass.dispatch_chunks = c.parallel.dispatch_chunks;
  return pass;
}

Trainer make_trainer(const Config& config, const Mesh& mesh, Device& device, Stream& stream, Ops& ops) {
  Trainer t;
  t.config = config;
  t.mesh = &mesh;
  t.device = &device;
  t.stream = &stream;
  t.ops = &ops;
  const PassShape pass = training_pass(config);
  const std::int64_t n = microbatches_here(config, mesh);
  check_freeze(config.model, config.train.freeze);

  const auto layout = [&] {
    t.model =
        std::make_unique<Transformer>(make_transformer(t.activations, config.model, pass, device, stream, ops, mesh));
    t.batch = take_batch(t.activations, pass);
    t.step_sums = t.activations.take(DType::F64, {1 + 4 * config.model.num_hidden_layers});
  };
  layout();
  t.activations.allocate(device);
  layout();
  fill_batch_shape(device, stream, t.batch, pass);

  t.memory = make_train_memory(t.model->table, config.storage(), config.train.optimizer == "adamw", device);
  bind_weights(*t.model, t.memory.weights.dense, t.memory.weights.expert);
  bind_gradients(*t.model, t.memory.grads.dense, t.memory.grads.expert);
  t.optimizer = make_optimizer(t.model->table, mesh, device, ops, stream, t.model->workspace(), config.train);
  t.host_tokens.resize(static_cast<std::size_t>(n * pass.T()));
  t.host_targets.resize(t.host_tokens.size());
  t.host_sums.resize(static_cast<std::size_t>(t.step_sums.size()));
  t.flops_per_token = training_flops_per_token(config.model, config.train.seq_length);
  return t;
}

std::vector<MemoryClass> plan_trainer(const Config& config, const Mesh& mesh, Ops& ops) {
  Arena arena("activations");
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  const PassShape pass = training_pass(config);
  const Transformer m = make_transformer(arena, config.model, pass, *device, *stream, ops, mesh);
  (void)take_batch(arena, pass);
  (void)arena.take(DType::F64, {1 + 4 * config.model.num_hidden_layers});
  std::vector<MemoryClass> plan = plan_train_memory(m.table, config.storage(), config.train.optimizer == "adamw");
  plan.insert(plan.end(), arena.classes().begin(), arena.classes().end());
  plan.push_back({"collectives", collective_scratch_bytes(mesh.layout)});
  if (!config.checkpoint.dir.empty())
    plan.push_back({"checkpoint snapshot", plan_snapshot(m.table, mesh.at, config.train.optimizer == "adamw")});
  return plan;
}

}  // namespace upcycle
