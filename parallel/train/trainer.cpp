#include "parallel/train/trainer.h"
#include "parallel/comm/cuda_memory.h"

#include <algorithm>

#include "core/check.h"
#include "core/config/batch_ramp.h"
#include "core/error.h"
#include "parallel/model/transformer.h"
#include "parallel/train/faults.h"
#include "parallel/train/offload.h"
#include "parallel/train/router_bias.h"
#include "parallel/train/snapshot.h"

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
  if (ramps_batch(c.train))
    for (const std::size_t i : {0, 1})
      if (const std::int64_t size = c.train.rampup_batch_size[i]; size % unit != 0)
        input_error(
            "train.rampup_batch_size: found {} of {}, expected a multiple of train.micro_batch_size * dp = {} * {} = "
            "{}: each batch of the ramp is cut into micro batches of all ranks; use {}",
            i == 0 ? "a start" : "an increment", size, c.train.micro_batch_size, mesh.layout.dp, unit,
            (size + unit - 1) / unit * unit);
  return c.train.global_batch_size / unit;
}

// What ZeRO-2 keeps on one rank only needs other ranks.
void check_zero_stage(const Config& c, const Layout& layout) {
  const int edp = c.model.is_moe() ? layout.edp : 1;
  if (c.train.zero_stage == 2 && layout.dp == 1 && edp == 1)
    input_error(
        "train.zero_stage: found 2, expected 1 where no parameter has replicas (dp = 1{}); use 1, or more ranks",
        c.model.is_moe() ? ", edp = 1" : "");
}

GradientStorage gradient_storage(const TrainConfig& c) {
  return {c.zero_stage, c.gradient_dtype == "bf16" ? DType::BF16 : DType::F32};
}

}  // namespace

int nccl_communicators(const Config& c, const Layout& l) {
  const bool live = c.upcycle.at_step >= 0, upcycles = live || !c.init.upcycle.empty();
  const bool exchanges = live && (c.storage() == DType::BF16 || c.train.moments() > 0);  // live_exchange.h
  const bool over_world = exchanges || (upcycles && c.upcycle.drop_ratio > 0);           // dense_statistics.h
  const std::pair<int, bool> groups[] = {
      {l.tp, true}, {l.dp, true}, {l.ep, c.model.is_moe()}, {l.edp, c.model.is_moe()}, {l.world, over_world}};
  return static_cast<int>(std::ranges::count_if(groups, [](const auto& g) { return g.first > 1 && g.second; }));
}

Trainer::Trainer() = default;
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

std::int64_t batch_of_step(const Trainer& t) {
  return batch_size_at(t.config.train, t.tokens / t.config.train.seq_length);
}

PassShape training_pass(const Config& c) {
  PassShape pass;
  pass.B = c.train.micro_batch_size;
  pass.S = c.train.seq_length;
  pass.recompute = recompute_of(c.train.recompute);
  pass.dtype = c.storage();
  pass.imbalance_factor = c.parallel.imbalance_factor;
  pass.dispatch_chunks = c.parallel.dispatch_chunks;
  pass.documents = c.data.reset_attention_mask;
  return pass;
}

Trainer make_trainer(const Config& config, const Mesh& mesh, Device& device, Stream& stream, Ops& ops, Ops* host_ops) {
  Trainer t;
  t.config = config;
  t.mesh = &mesh;
  t.device = &device;
  t.stream = &stream;
  t.ops = &ops;
  t.host_ops = host_ops;
  const PassShape pass = training_pass(config);
  const std::int64_t n = microbatches_here(config, mesh);
  check_freeze(config.model, config.train.freeze);
  check_param_groups(config);
  check_zero_stage(config, mesh.layout);

  const auto layout = [&] {
    t.model =
        std::make_unique<Transformer>(make_transformer(t.activations, config.model, pass, device, stream, ops, mesh));
    t.batch = take_batch(t.activations, pass);
    t.biases = take_router_biases(t.activations, config.model);
  };
  layout();
  t.activations.allocate(device);
  layout();
  fill_batch_shape(device, stream, t.batch, pass);

  t.memory = make_train_memory(t.model->table, state_form(config), device, gradient_storage(config.train));
  bind_weights(*t.model, t.memory.weights.dense, t.memory.weights.expert);
  bind_gradients(*t.model, [&](const ParamRow& row) { return gradient_place(t.model->table, t.memory, row); });
  t.optimizer =
      make_optimizer(t.model->table, t.model->arrivals, mesh, device, ops, stream, t.model->workspace, config);
  if (offloads(config) && device.kind() == DeviceKind::Cuda) {
    UPCYCLE_CHECK(host_ops != nullptr, "no ops of the CPU to update what is offloaded");
    t.optimizer.offload = make_offload(t.optimizer, t.memory, *host_ops);
  }
  t.host_tokens = HostArray<std::int32_t>(device, static_cast<std::size_t>(n * pass.T()));
  t.host_targets = HostArray<std::int32_t>(device, t.host_tokens.size());
  t.documents = BatchDocuments(device, document_rules(config.data), pass, n);
  t.host_sums = HostArray<double>(device, static_cast<std::size_t>(t.model->activations.step_sums.size()) + 1);
  if (t.biases.directions)
    t.bias_directions = HostArray<float>(device, static_cast<std::size_t>(t.biases.directions.size()));
  if (config.train.max_loss_z_score > 0) t.skips.losses.reserve(static_cast<std::size_t>(config.train.loss_window) + 1);
  if (!config.debug.inject.empty()) t.faults = std::make_shared<Faults>(config, mesh.rank, device, stream);
  t.flops_per_token = training_flops_per_token(config.model, config.train.seq_length);
  return t;
}

std::vector<MemoryClass> plan_trainer(const Config& config, const Mesh& mesh, Ops& ops) {
  Arena arena("activations");
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  const PassShape pass = training_pass(config);
  Transformer m = make_transformer(arena, config.model, pass, *device, *stream, ops, mesh);
  (void)take_batch(arena, pass);
  (void)take_router_biases(arena, config.model);
  std::vector<MemoryClass> plan = plan_train_memory(m.table, state_form(config), gradient_storage(config.train));
  if (offloads(config)) {
    const Optimizer o = make_optimizer(m.table, m.arrivals, mesh, *device, ops, *stream, m.workspace, config);
    plan.push_back(
        {"offload buffers", plan_offload(o, state_form(config), gradient_storage(config.train)).buffers, true});
  }
  plan.insert(plan.end(), arena.classes().begin(), arena.classes().end());
  const bool cuda = config.device == "cuda";
  plan.push_back(cuda ? cuda_estimate(nccl_communicators(config, mesh.layout))
                      : MemoryClass{"collectives", collective_scratch_bytes(mesh.layout)});
  if (!config.checkpoint.dir.empty())
    plan.push_back({"checkpoint snapshot", plan_snapshot(m.table, mesh.at, config), cuda});
  return plan;
}

}  // namespace upcycle
