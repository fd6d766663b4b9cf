#include "parallel/serve/cost_model.h"

#include <gtest/gtest.h>

#include "parallel/serve/predicted_server.h"

namespace upcycle {
namespace {

ModelConfig small_model(std::int64_t experts = 0, std::int64_t k = 2) {
  ModelConfig m;
  m.hidden_size = 64;
  m.intermediate_size = 160;
  m.num_hidden_layers = 3;
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.vocab_size = 512;
  m.max_position_embeddings = 4096;
  m.num_local_experts = experts;
  m.num_experts_per_tok = k;
  return m;
}

// Every kind of work at the same rate, and nothing that is fixed.
Machine even_machine() {
  Machine m;
  m.memory_bytes = m.memory_utilization = 1;
  m.memory_rate = 1e9;
  m.product_rate_bf16 = m.product_rate_fp32 = 1e9;
  m.expert_efficiency = m.attention_efficiency = 1;
  m.link_rate = 1e9;
  return m;
}
Machine without_memory_limit() {
  Machine m = even_machine();
  m.memory_rate = 1e18;
  return m;
}

struct Part {
  std::int64_t begin, rows;
  bool samples = true;
};
StepCost cost_of(const CostModel& model, const std::vector<std::vector<Part>>& replicas) {
  std::vector<std::vector<ScheduledRows>> rows;
  for (const auto& parts : replicas) {
    rows.emplace_back();
    for (const Part& p : parts) rows.back().push_back({nullptr, p.begin, p.rows, p.samples});
  }
  const std::vector<std::span<const ScheduledRows>> spans(rows.begin(), rows.end());
  return model.cost(spans);
}

double matrices(const ModelConfig& m) {  // elements that one token is multiplied with, but for the head's
  const std::int64_t mlp = 3 * m.hidden_size * m.intermediate_size;
  const std::int64_t layer = m.hidden_size * (m.num_attention_heads * 2 + m.num_key_value_heads * 2) * m.head_size() +
                             (m.is_moe() ? m.num_experts_per_tok * mlp + m.num_local_experts * m.hidden_size : mlp);
  return static_cast<double>(m.num_hidden_layers * layer);
}

// Where memory does not matter, a prompt costs the FLOPs that training counts, a third of them, for a head that sees
// one row of it.
TEST(CostModel, APromptCostsTheFlopsOfAForwardPass) {
  for (const std::int64_t experts : {0, 8}) {
    const ModelConfig m = small_model(experts);
    const std::int64_t S = 1000;
    const CostModel model(m, {}, DType::F32, without_memory_limit());
    const double head = 2.0 * static_cast<double>(m.vocab_size * m.hidden_size);
    const double flops = training_flops_per_token(m, S) / 3 * S - head * (S - 1);
    EXPECT_NEAR(cost_of(model, {{{0, S}}}).seconds() * 1e9 / flops, 1, 1.0 / S) << experts;
    // In two chunks the same.
    const double chunks = cost_of(model, {{{0, 400, false}}}).seconds() + cost_of(model, {{{400, 600}}}).seconds();
    EXPECT_NEAR(chunks * 1e9 / flops, 1, 1.0 / S) << experts;
  }
}

// Where only memory matters, decoding reads each matrix once, the experts that are touched, and the keys and values.
TEST(CostModel, DecodingReadsWeightsAndCache) {
  Machine machine = even_machine();
  machine.product_rate_fp32 = machine.product_rate_bf16 = 1e18;
  const double cache_row = 2.0 * 3 * 4 * 8;  // elements
  const ModelConfig dense = small_model();
  const double head = static_cast<double>(dense.vocab_size * dense.hidden_size);
  const StepCost one = cost_of({dense, {}, DType::BF16, machine}, {{{99, 1}}});
  EXPECT_NEAR(one.products * 1e9, 2 * (matrices(dense) + head), 1);
  EXPECT_NEAR(one.attention * 1e9, 2 * 100 * cache_row, 1e-3);
  EXPECT_NEAR(one.weight_bytes, 2 * (matrices(dense) + head), 1);
  // More sequences read the same weights.
  EXPECT_NEAR(cost_of({dense, {}, DType::BF16, machine}, {{{99, 1}, {9, 1}}}).products, one.products, 1e-9);

  const ModelConfig moe = small_model(8);
  const CostModel model(moe, {}, DType::BF16, machine);
  const StepCost alone = cost_of(model, {{{99, 1}}});
  EXPECT_NEAR((alone.products + alone.experts) * 1e9, 2 * (matrices(moe) + head), 1);
  EXPECT_NEAR(alone.experts_touched, 3 * 2, 1e-9);
  const StepCost two = cost_of(model, {{{99, 1}, {9, 1}}});
  EXPECT_NEAR(two.experts_touched, 3 * 8 * (1 - 0.75 * 0.75), 1e-9);
  EXPECT_NEAR(two.experts / alone.experts, 4 * (1 - 0.75 * 0.75), 1e-9);
  EXPECT_NEAR(cost_of(model, {{{0, 1000}}}).experts_touched, 3 * 8, 1e-6);
  // Measured shares: all tokens to the same two experts.
  const CostModel narrow(moe, {}, DType::BF16, machine, {1, 1, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(cost_of(narrow, {{{0, 1000}}}).experts_touched, 3 * 2);
}

TEST(CostModel, RanksOfTpShareTheWorkAndExchangeTheRows) {
  const ModelConfig m = small_model(8);
  Machine machine = without_memory_limit();
  const StepCost one = cost_of({m, {}, DType::F32, machine}, {{{0, 64}}});
  const StepCost four = cost_of({m, make_layout(4, 4, 1, 4), DType::F32, machine}, {{{0, 64}}});
  EXPECT_NEAR(four.attention, one.attention / 4, 1e-9);
  EXPECT_NEAR(four.experts, one.experts / 4, 1e-9);
  EXPECT_EQ(one.transfers, 0);
  // Two all-reduces of (T, H) in each of three layers, 2 (n - 1) / n of the bytes each.
  EXPECT_NEAR(four.transfers * 1e9, 3 * 2 * 2 * 0.75 * 64 * 64 * 4, 1e-3);
  machine.link_latency = 1;
  EXPECT_NEAR(cost_of({m, make_layout(4, 4, 1, 4), DType::F32, machine}, {{{0, 64}}}).transfers, 6, 0.01);
  // Norms over all heads add up two numbers of each row and layer more.
  ModelConfig normed = m;
  normed.qk_norm = "full";
  EXPECT_NEAR(cost_of({normed, make_layout(4, 4, 1, 4), DType::F32, machine}, {{{0, 64}}}).transfers, 9, 0.01);
  machine.link_latency = 0;
  const StepCost with = cost_of({normed, make_layout(4, 4, 1, 4), DType::F32, machine}, {{{0, 64}}});
  EXPECT_NEAR((with.transfers - four.transfers) * 1e9, 3 * 2 * 0.75 * 64 * 2 * 4, 1e-3);
  normed.qk_norm = "head";
  EXPECT_EQ(cost_of({normed, make_layout(4, 4, 1, 4), DType::F32, machine}, {{{0, 64}}}).transfers, four.transfers);
}

TEST(CostModel, ReplicasStepTogetherAndShareExperts) {
  const ModelConfig m = small_model(8);
  const Machine machine = without_memory_limit();
  const Layout replicas = make_layout(2, 1, 1, 1), spread = make_layout(2, 1, 2, 1);
  const StepCost one = cost_of({m, {}, DType::F32, machine}, {{{0, 64}}});
  // As long as the longest; each has all experts.
  EXPECT_NEAR(cost_of({m, replicas, DType::F32, machine}, {{{0, 64}}, {{0, 64}}}).seconds(), one.seconds(), 1e-9);
  EXPECT_EQ(cost_of({m, replicas, DType::F32, machine}, {{{0, 64}}, {}}).products, one.products);
  // Half the experts each, for the tokens of both.
  const StepCost two = cost_of({m, spread, DType::F32, machine}, {{{0, 64}}, {{0, 64}}});
  EXPECT_NEAR(two.experts, one.experts, 1e-9);
  EXPECT_NEAR(two.transfers * 1e9, 3 * 2 * 64 * 2 * 64 * 4 / 2, 1e-3);
}

TEST(CostModel, FixedTimesAddUp) {
  Machine machine = without_memory_limit();
  machine.product_rate_fp32 = 1e18;
  machine.layer_time = 1;
  machine.moe_layer_time = 10;
  machine.moe_row_time = 100;
  machine.host_step_time = 1000;
  machine.host_token_time = 10000;
  const ModelConfig m = small_model(8);
  const StepCost c = cost_of({m, {}, DType::F32, machine}, {{{9, 1}, {9, 1}, {0, 5, false}}});
  EXPECT_NEAR(c.layers, 3 * (1 + 10 + 7 * 100), 1e-9);
  EXPECT_NEAR(c.host, 1000 + 2 * 10000, 1e-9);
  EXPECT_EQ(cost_of({m, {}, DType::F32, machine}, {{}}).seconds(), 0);
}

TEST(PredictedServer, ItsClockIsTheSumOfItsSteps) {
  Machine machine = without_memory_limit();
  machine.product_rate_fp32 = 1e18;
  machine.host_step_time = 1;
  SchedulerOptions o;
  o.max_model_len = 100;
  o.max_num_seqs = 4;
  o.pages = 100;
  const auto server = make_predicted_server({small_model(8), make_layout(2, 1, 1, 1), DType::F32, machine}, o);
  EXPECT_FALSE(server->busy());
  EXPECT_EQ(server->step().rows, 0);
  EXPECT_EQ(server->now(), 0);
  for (std::int64_t id = 0; id < 3; ++id) {
    Request r;
    r.id = id;
    r.prompt.assign(10, 0);
    r.max_tokens = 5;
    server->add(r);
  }
  EXPECT_TRUE(server->cancel(2));
  EXPECT_FALSE(server->cancel(2));
  std::int64_t steps = 0, tokens = 0;
  while (server->busy()) {
    const StepReport& r = server->step();
    // One request on each replica.
    EXPECT_EQ(r.rows, steps == 0 ? 20 : 2);
    EXPECT_EQ(r.prompt_rows, steps == 0 ? 20 : 0);
    EXPECT_EQ(r.sequences, 2);
    EXPECT_EQ(r.waiting, 0);  // both were let in
    EXPECT_EQ(r.assignments, r.rows * 2 * 3);
    tokens += static_cast<std::int64_t>(r.tokens.size());
    EXPECT_NEAR(server->now(), static_cast<double>(++steps), 1e-6);
  }
  EXPECT_EQ(steps, 5);
  EXPECT_EQ(tokens, 10);
  server->wait_until(2);
  EXPECT_NEAR(server->now(), 5, 1e-6);
  server->wait_until(7);
  EXPECT_EQ(server->now(), 7);
}

}  // namespace
}  // namespace upcycle
