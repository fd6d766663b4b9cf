#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/model/transformer.h"
#include "tests/train/rig.h"

// Documents that share a sequence, kept apart (data.reset_attention_mask and the like), are as each by itself.
namespace upcycle {
namespace {

constexpr std::int64_t S = 12;
constexpr std::int32_t eod = 7;

const Rig rig;
const Mesh mesh = single_mesh(rig);

// Router losses are of all tokens, those that only fill a sequence too.
Config config_of(bool moe) {
  Config c = moe ? small_moe_config() : small_config();
  c.model.router_aux_loss_coef = c.model.router_z_loss_coef = 0;
  c.train.seq_length = S;
  return c;
}

void keep_apart(Config& c) {
  c.data.reset_attention_mask = c.data.reset_position_ids = c.data.eod_mask_loss = true;
  c.data.eod_token_id = eod;
}

// Four sequences of documents, among them one of the eod alone, one that fills its sequence and one that is cut.
const std::vector<std::vector<std::int32_t>> lengths = {{5, 4, 3}, {12}, {1, 7, 1, 3}, {2, 10}};

// What follows an eod is not predicted, as eod_mask_loss has it.
void mask(FixedSequences& data) {
  for (std::size_t i = 0; i < data.tokens.size(); ++i)
    if (data.tokens[i] == eod) data.targets[i] = -1;
}

FixedSequences packed() {
  FixedSequences data = random_sequences(4, S, 37, 3);
  for (std::int32_t& token : data.tokens) token = token == eod ? eod + 1 : token;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    std::size_t at = s * S;
    for (const std::int32_t length : lengths[s]) data.tokens[(at += static_cast<std::size_t>(length)) - 1] = eod;
    if (s == 3) data.tokens[at - 1] = eod + 1;  // goes on in a sequence that is not there
  }
  for (std::size_t i = 0; i + 1 < data.tokens.size(); ++i)
    if ((i + 1) % S != 0) data.targets[i] = data.tokens[i + 1];
  mask(data);
  return data;
}

// Each document in a sequence of its own, from its first place, with something behind it that is not predicted.
FixedSequences alone(const FixedSequences& data) {
  FixedSequences one{S, {}, {}};
  std::size_t at = 0;
  for (const auto& of_sequence : lengths)
    for (const std::int32_t length : of_sequence) {
      for (std::size_t i = 0; i < S; ++i) {
        const bool in = i < static_cast<std::size_t>(length);
        one.tokens.push_back(in ? data.tokens[at + i] : 11);
        one.targets.push_back(in ? data.targets[at + i] : -1);
      }
      at += static_cast<std::size_t>(length);
    }
  return one;
}

void expect_equal_gradients(const Trainer& a, const Trainer& b) {
  double all = 0;
  for (const ParamRow& row : a.table().rows) all += std::pow(norm(gradient_of(a, row)), 2);
  for (const ParamRow& row : a.table().rows) {
    const std::vector<float> g0 = gradient_of(a, row), g = gradient_of(b, row);
    EXPECT_LE(distance(g, g0), allowed_distance(norm(g0), std::sqrt(all))) << row.name;
  }
}

class Documents : public ::testing::TestWithParam<const char*> {};

TEST_P(Documents, ApartAreAsEachByItself) {
  for (const bool moe : {false, true}) {
    Config c = config_of(moe);
    c.train.recompute = GetParam();
    const FixedSequences data = packed();
    const FixedSequences by_themselves = alone(data);
    Config wide = c;
    wide.train.micro_batch_size = 1;
    wide.train.global_batch_size = static_cast<std::int64_t>(by_themselves.tokens.size()) / S;
    Trainer one = random_trainer(rig, wide, mesh);
    const StepResult want = compute_gradients(one, by_themselves.source());
    keep_apart(c);
    Trainer together = random_trainer(rig, c, mesh);
    const StepResult got = compute_gradients(together, data.source());
    EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
    expect_equal_gradients(one, together);
    // Without the rules it is another function.
    c.data = {};
    Trainer plain = random_trainer(rig, c, mesh);
    EXPECT_GT(std::abs(compute_gradients(plain, data.source()).loss - want.loss), 1e-4);
  }
}
INSTANTIATE_TEST_SUITE_P(Recompute, Documents, ::testing::Values("none", "full"),
                         [](const auto& info) { return std::string(info.param); });

// Each rule by itself, on the loss of every token: which earlier tokens it depends on, and where it stands.
TEST(DocumentRules, EachRuleDoesItsPart) {
  const FixedSequences data = packed();
  const auto losses = [&](bool attention, bool positions, std::int32_t first) {
    Config c = config_of(false);
    c.train.global_batch_size = c.train.micro_batch_size;  // the first microbatch
    c.data.reset_attention_mask = attention;
    c.data.reset_position_ids = positions;
    c.data.eod_token_id = eod;
    Trainer t = random_trainer(rig, c, mesh);
    FixedSequences changed = data;
    changed.tokens[0] = first;
    (void)compute_gradients(t, changed.source());
    return values_of<float>(t, t.model->activations.head.nll);
  };
  const std::int32_t first = data.tokens[0], other = first == 1 ? 2 : 1;
  for (const bool positions : {false, true}) {
    const auto apart = losses(true, positions, first), apart_changed = losses(true, positions, other);
    const auto joined = losses(false, positions, first), joined_changed = losses(false, positions, other);
    EXPECT_NE(apart[2], apart_changed[2]);  // in the first document
    for (std::size_t i = 5; i < S; ++i) EXPECT_EQ(apart[i], apart_changed[i]) << i;
    EXPECT_NE(joined[6], joined_changed[6]);
  }
  // Attention sees only differences of positions, all of which are alike within a document.
  const auto reset = losses(true, true, first), counted_on = losses(true, false, first);
  for (std::size_t i = 0; i < S; ++i) EXPECT_NEAR(reset[i], counted_on[i], 1e-4) << i;
  EXPECT_GT(std::abs(losses(false, true, first)[6] - losses(false, false, first)[6]), 1e-4);
}

}  // namespace
}  // namespace upcycle
