#include "tests/train/rig.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/rng.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/owned_state.h"
#include "parallel/train/reduction.h"
#include "tests/kernels/test_backend.h"

namespace upcycle {

std::unique_ptr<Device> make_rig_device() { return testing::make_test_device(); }
std::shared_ptr<Ops> make_rig_ops() { return testing::make_test_ops(); }
std::shared_ptr<Ops> make_host_ops() { return make_cpu_ops(); }

Rig cpu_rig() {
  Rig rig{nullptr, nullptr, nullptr, nullptr};
  rig.device = make_cpu_device();
  rig.stream = rig.device->make_stream();
  rig.ops = make_cpu_ops();
  return rig;
}

Mesh single_mesh(const Rig& rig) { return make_single_mesh(*rig.device, *rig.stream); }

void copy_elements(Device& device, Stream& stream, void* to, std::size_t bytes_each, const Tensor& x) {
  UPCYCLE_CHECK(x.contiguous() && bytes_each == size_of(x.dtype), "{} as {} bytes each", x.describe(), bytes_each);
  device.copy_to_host(stream, to, x.data, x.bytes());
  stream.synchronize();
}

bool lies_in(const Arena& arena, const Tensor& x) {
  const auto *begin = static_cast<const char*>(arena.data()), *at = static_cast<const char*>(x.data);
  return arena.allocated() && at >= begin && at < begin + arena.capacity();
}

std::vector<float> floats_of(const Trainer& t, const Tensor& x) {
  if (x.dtype == DType::F32) return values_of<float>(t, x);
  const std::vector<bf16> rounded = values_of<bf16>(t, x);
  std::vector<float> values(rounded.size());
  std::transform(rounded.begin(), rounded.end(), values.begin(), [](bf16 v) { return to_float(v); });
  return values;
}

std::vector<float> owned_floats(const Trainer& t, StateKind kind, const OwnedPiece& p) {
  const std::int64_t n = p.part.size();
  Staging staging = state_staging(t.memory, *t.device, *t.stream, static_cast<std::size_t>(n) * sizeof(float));
  std::vector<float> values(static_cast<std::size_t>(n));
  read_state(staging, t.memory, kind, p, {0, 1, n, n}, values.data());
  return values;
}

void set_floats(const Trainer& t, const Tensor& x, std::span<const float> values) {
  UPCYCLE_CHECK(x.contiguous() && static_cast<std::size_t>(x.size()) == values.size(), "{} of {} values", x.describe(),
                values.size());
  std::vector<bf16> rounded;
  if (x.dtype == DType::BF16) {
    rounded.resize(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
  }
  const void* from = x.dtype == DType::BF16 ? static_cast<const void*>(rounded.data()) : values.data();
  t.device->copy_from_host(*t.stream, x.data, from, x.bytes());
  t.stream->synchronize();  // `values` are the caller's
}

FixedSequences random_sequences(std::int64_t n, std::int64_t S, std::int64_t V, std::uint64_t seed) {
  FixedSequences f{S, {}, {}};
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j <= S; ++j) {
      const auto token = static_cast<std::int32_t>(
          rng::below(static_cast<std::uint64_t>(V), seed, 7, static_cast<std::uint64_t>(i * (S + 1) + j)));
      if (j < S) f.tokens.push_back(token);
      if (j > 0) f.targets.push_back(token);
    }
  }
  return f;
}

Config small_config() {
  Config c;
  c.dtype = "fp32";
  c.model.hidden_size = 24;
  c.model.intermediate_size = 20;
  c.model.num_hidden_layers = 2;
  c.model.num_attention_heads = 4;
  c.model.num_key_value_heads = 2;
  c.model.head_dim = 6;
  c.model.vocab_size = 37;
  c.model.max_position_embeddings = 64;
  c.model.initializer_range = 0.2;
  c.train.steps = 10;
  c.train.seq_length = 9;
  c.train.micro_batch_size = 2;
  c.train.global_batch_size = 4;
  return c;
}

Config small_moe_config() {
  Config c = small_config();
  c.model.num_local_experts = 4;
  c.model.num_experts_per_tok = 2;
  c.model.moe_intermediate_size = 12;
  c.model.router_aux_loss_coef = 0.05;
  c.model.router_z_loss_coef = 0.01;
  return c;
}

Trainer random_trainer(const Rig& rig, const Config& config, const Mesh& mesh) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops, rig.host_ops.get());
  ParamTable table = t.table();
  for (ParamRow& row : table.rows)
    if (row.name.ends_with("block_sparse_moe.gate.weight"))
      row.init_std = 0.5;
    else if (row.initializer == Initializer::Zeros)
      row.initializer = Initializer::Normal;
  Staging staging(*rig.device, *rig.stream);
  initialize_weights(table, static_cast<std::uint64_t>(config.seed), staging, t.memory.weights.dense,
                     t.memory.weights.expert);
  masters_from_weights(t.optimizer, t.memory);
  return t;
}

double whole_loss(const Config& config, const StepResult& r) {
  double layers = 0;
  for (std::int64_t l = 0; l < config.model.num_hidden_layers; ++l) layers += config.model.is_moe_layer(l) ? 1 : 0;
  return r.loss +
         layers * (config.model.router_aux_loss_coef * r.aux_loss + config.model.router_z_loss_coef * r.z_loss);
}

namespace {

void append(std::vector<float>& to, const std::vector<float>& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

TrainedState state_of(const Trainer& t) {
  TrainedState s;
  const int moments = t.config.train.moments();
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {  // in the order of rows
    TrainedState::Parameter& to = s.parameters[p.row->name];
    append(to.weight, floats_of(t, piece_of(t.memory.weights, p)));
    append(to.master, owned_floats(t, StateKind::Master, p));
    if (moments > 0) append(to.m, owned_floats(t, StateKind::Moment1, p));
    if (moments > 1) append(to.v, owned_floats(t, StateKind::Moment2, p));
    to.steps = t.optimizer.row_steps[static_cast<std::size_t>(p.row - t.table().rows.data())];
  }
  s.step = t.step;
  s.consumed_samples = t.consumed_samples;
  s.tokens = t.tokens;
  s.flops = t.flops;
  return s;
}

void expect_same_state(const TrainedState& a, const TrainedState& b) {
  EXPECT_EQ(a.parameters.size(), b.parameters.size());
  for (const auto& [name, parameter] : a.parameters) {
    const auto other = b.parameters.find(name);
    ASSERT_NE(other, b.parameters.end()) << name;
    EXPECT_TRUE(parameter.weight == other->second.weight) << "weights of " << name;
    EXPECT_TRUE(parameter.master == other->second.master) << "masters of " << name;
    EXPECT_TRUE(parameter.m == other->second.m) << "first moments of " << name;
    EXPECT_TRUE(parameter.v == other->second.v) << "second moments of " << name;
    EXPECT_EQ(parameter.steps, other->second.steps) << "steps of " << name;
  }
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.consumed_samples, b.consumed_samples);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.flops, b.flops);
}

std::vector<std::int32_t> chosen_experts(const Trainer& t, std::int64_t layer) {
  return values_of<std::int32_t>(t, t.model->activations.layers[static_cast<std::size_t>(layer)].moe.router.experts);
}

double smallest_gap(const Trainer& t, std::int64_t layer) {
  const RouterState& router = t.model->activations.layers[static_cast<std::size_t>(layer)].moe.router;
  const Tensor& probs = router.probs;
  const auto E = static_cast<std::size_t>(t.config.model.num_local_experts),
             k = static_cast<std::size_t>(t.config.model.num_experts_per_tok);
  double gap = std::numeric_limits<double>::infinity();
  if (k == E) return gap;
  std::vector<float> values = values_of<float>(t, probs), bias(E);
  if (router.logits) {  // the smallest gap between scores in the choice
    const Tensor& biases = t.model->weights.layers[static_cast<std::size_t>(layer)].router_bias;
    if (biases) bias = values_of<float>(t, biases);
    const std::vector<float> logits = values_of<float>(t, router.logits);
    // Of which the loop below takes logarithms.
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::exp(1 / (1 + std::exp(-logits[i])) + bias[i % E]);
  }
  for (auto row = values.begin(); row != values.end(); row += probs.columns()) {
    std::vector<float> p(row, row + probs.columns());
    std::sort(p.rbegin(), p.rend());
    gap = std::min(gap, std::log(double(p[k - 1])) - std::log(double(p[k])));
  }
  return gap;
}

std::vector<float> gradient_of(const Trainer& t, const ParamRow& row) {
  return floats_of(t, view_row(row, t.memory.grads.dense, t.memory.grads.expert));
}

double clipped_norm(Trainer& t) {
  const HostArray<double> sum(*t.device, 1);
  start_norm(t.optimizer, t.memory, sum[0]);
  t.stream->synchronize();
  clip_gradients(t.optimizer, t.memory, sum[0]);
  t.stream->synchronize();  // the copy from `sum`
  return std::sqrt(sum[0]);
}

}  // namespace upcycle
