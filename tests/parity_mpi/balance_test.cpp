#include <fmt/core.h>
#include <gtest/gtest.h>

#include <map>

#include "parallel/model/transformer.h"
#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

// What keeps experts balanced, beyond a microbatch's loss, on every layout of this world.
namespace upcycle::test {
namespace {

FixedSequences in_order(const FixedSequences& data, const std::vector<std::int64_t>& order) {
  FixedSequences result{data.S, {}, {}};
  for (const std::int64_t i : order) {
    const auto at = [&](const std::vector<std::int32_t>& v) { return v.begin() + i * data.S; };
    result.tokens.insert(result.tokens.end(), at(data.tokens), at(data.tokens) + data.S);
    result.targets.insert(result.targets.end(), at(data.targets), at(data.targets) + data.S);
  }
  return result;
}

// The loss over the global batch counts the microbatches that the ranks are at together, and those before: ranks are to
// it as if each such round were one microbatch of one rank, whose sequences are the ranks' in turn.
TEST(Balance, LossOverTheGlobalBatchTakesRoundsOfAllRanks) {
  constexpr std::int64_t rounds = 2;
  Config c = config_of(Switches{});
  c.model.router_aux_loss_coef = 0.5;
  const std::int64_t B = c.train.micro_batch_size;
  bool recompute = true;
  std::map<std::int64_t, std::pair<FixedSequences, Reference>> of_dp;
  for (const Parallelism& p : legal_layouts(c.model)) {
    SCOPED_TRACE(p.text());
    const std::int64_t dp = mpi_session().size() / p.tp;
    c.train.global_batch_size = rounds * B * dp;
    if (of_dp.count(dp) == 0) {
      const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
      std::vector<std::int64_t> order;
      for (std::int64_t round = 0; round < rounds; ++round)
        for (std::int64_t rank = 0; rank < dp; ++rank)
          for (std::int64_t i = 0; i < B; ++i) order.push_back((rank * rounds + round) * B + i);
      Config alone = c;
      alone.train.micro_batch_size = B * dp;
      const Reference plain = one_rank_reference(alone, random_fill(), in_order(data, order));
      alone.model.router_aux_loss_scope = "global_batch";
      Reference want = one_rank_reference(alone, random_fill(), in_order(data, order));
      EXPECT_GT(std::abs(want.result.aux_loss - plain.result.aux_loss), 1e-4);
      of_dp.emplace(dp, std::pair{data, std::move(want)});
    }
    const FixedSequences& data = of_dp.at(dp).first;
    Reference want = of_dp.at(dp).second;
    Config here = c;
    here.model.router_aux_loss_scope = "global_batch";
    here.train.recompute = (recompute = !recompute) ? "full" : "none";  // in turn
    const Rig rig;
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer t = make_trainer(here, mesh, *rig.device, *rig.stream, *rig.ops);
    random_fill()(t);
    const StepResult got = compute_gradients(t, data.source());
    // The busiest expert's load is a microbatch's.
    for (std::size_t l = 0; l < got.layers.size(); ++l)
      want.result.layers[l].load_max_over_mean = got.layers[l].load_max_over_mean;
    expect_parity(t, got, want);
  }
}

Config sigmoid_config(const Switches& s, std::int64_t microbatches) {
  Config c = config_of(s);
  c.model.router_score = "sigmoid";
  c.model.router_bias = true;
  c.train.global_batch_size = c.train.micro_batch_size * microbatches * mpi_session().size();
  return c;
}

// Scores, weights and all gradients of sigmoid routers with random biases.
TEST(Balance, SigmoidRoutersOnEveryLayout) {
  for (const bool recompute : {false, true}) {
    Switches s;
    s.recompute = recompute;
    s.one_expert = recompute;  // k = 1, whose weight is the score
    s.start = recompute ? Start::SharedExpert : Start::Copy;
    s.chunks = recompute ? 3 : 1;
    const Config c = sigmoid_config(s, 1);
    const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
    compare_all_layouts(c, random_fill(), data);
  }
}

std::vector<float> biases_of(const Trainer& t) {
  std::vector<float> all;
  for (const LayerWeights& w : t.model->weights.layers) {
    const std::vector<float> of_layer = floats_of(t, w.router_bias);
    all.insert(all.end(), of_layer.begin(), of_layer.end());
  }
  return all;
}

// What a checkpoint takes, the owners' masters, are what the routers work with.
void expect_masters_are_biases(const Trainer& t) {
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {
    if (p.row->role != ParamRole::RouterBias) continue;
    const Tensor& bias = t.model->weights.layers[static_cast<std::size_t>(p.row->layer)].router_bias;
    EXPECT_EQ(owned_floats(t, StateKind::Master, p),
              floats_of(t, bias.slice_rows(p.part.column, p.part.column + p.part.columns)));
  }
}

// Loads are of the whole global batch, in whole numbers: all ranks of all layouts move the biases by the same bits.
TEST(Balance, BiasesMoveAlikeOnEveryLayout) {
  Config c = sigmoid_config(Switches{}, 2);
  c.train.lr = c.train.min_lr = 0;  // or the layouts' roundings would decide near choices
  c.model.router_bias_update_rate = 0.01;
  const auto after_steps = [&](Trainer& t, const FixedSequences& data) {
    random_fill()(t);
    for (int step = 0; step < 3; ++step) (void)train_step(t, data.source());
    return biases_of(t);
  };
  const FixedSequences data =
      random_sequences(3 * c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 2);
  const Rig alone = cpu_rig();
  const Mesh single = single_mesh(alone);
  Config one = c;
  one.parallel = {};
  Trainer reference = make_trainer(one, single, *alone.device, *alone.stream, *alone.ops);
  random_fill()(reference);
  const std::vector<float> before = biases_of(reference), want = after_steps(reference, data);
  EXPECT_NE(before, want);
  bool recompute = true;
  for (const Parallelism& p : legal_layouts(c.model)) {
    SCOPED_TRACE(p.text());
    c.train.recompute = (recompute = !recompute) ? "full" : "none";  // in turn
    const Rig rig;
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    EXPECT_EQ(after_steps(t, data), want);
    EXPECT_NO_THROW(check_replicas(t.optimizer, t.memory));
    expect_masters_are_biases(t);
    if (!recompute) continue;
    Config rounded = c;
    rounded.dtype = "bf16";
    rounded.train.master_dtype = p.etp > 1 ? "bf16_remainder" : "fp32";
    Trainer in_bf16 = make_trainer(rounded, mesh, *rig.device, *rig.stream, *rig.ops);
    random_fill()(in_bf16);
    (void)train_step(in_bf16, data.source());
    expect_masters_are_biases(in_bf16);
    const std::vector<float> biases = biases_of(in_bf16);
    const std::string bits(reinterpret_cast<const char*>(biases.data()), biases.size() * sizeof(float));
    EXPECT_EQ(bits, mesh.world->broadcast_text(bits, 0));
  }
}

}  // namespace
}  // namespace upcycle::test
