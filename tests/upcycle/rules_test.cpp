#include "parallel/upcycle/rules.h"
#include "core/error.h"
#include "tests/data/expect_input_error.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/config/describe.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "core/rng.h"
#include "tests/core/other_value.h"
#include "tests/upcycle/models.h"

namespace upcycle::test {
namespace {

UpcycleConfig mode(const std::string& name, const std::string& scale = "none") {
  UpcycleConfig u;
  u.mode = name;
  u.scale = scale;
  return u;
}

TEST(UpcycledModel, TakesExpertKeysFromTheTargetAndTheRestFromTheDenseModel) {
  ModelConfig target = experts(10, 5, 4, "softmax_then_topk");
  target.router_aux_loss_coef = 0.03;
  target.router_z_loss_coef = 0.004;
  target.moe_every_n_layers = 2;
  target.shared_expert = true;
  target.hidden_size = 999;  // not taken from the target
  ModelConfig want = dense_model();
  want.num_local_experts = 10;
  want.num_experts_per_tok = 5;
  want.moe_intermediate_size = 4;
  want.router_softmax = "softmax_then_topk";
  want.router_aux_loss_coef = 0.03;
  want.router_z_loss_coef = 0.004;
  want.moe_every_n_layers = 2;
  want.shared_expert = true;
  EXPECT_EQ(upcycled_model(dense_model(), target, mode("virtual_group"), "c.json"), want);
  EXPECT_EQ(upcycled_model(dense_model(), experts(4, 2), mode("copy"), "c.json").expert_size(), 20);
}

TEST(UpcycledModel, SetsTheFieldsThatTheTableMarksAndNoOther) {
  Config dense, target;
  dense.model = dense_model();
  target.model = experts(8, 4, 10);
  int marked = 0, others = 0;
  for (const Field& field : fields()) {
    if (!field.key.starts_with("model.")) {
      EXPECT_FALSE(field.of_experts) << field.key;
      continue;
    }
    const std::string other = "--" + field.key + "=" + other_value(target, field);
    const Config given = parse_config_text(to_json(target), "c.json", {other});
    ++(field.of_experts ? marked : others);
    // A model that is continued may have them; a bias goes with sigmoid only.
    if (field.key.starts_with("model.shared_expert_") || field.key == "model.router_bias") {
      EXPECT_THROW((void)upcycled_model(dense.model, given.model, mode("virtual_group"), "c.json"), InputError)
          << other;
      continue;
    }
    Config moe;
    moe.model = upcycled_model(dense.model, given.model, mode("virtual_group"), "c.json");
    EXPECT_EQ(value_text(moe, field), value_text(field.of_experts ? given : dense, field)) << other;
    EXPECT_NE(value_text(given, field), value_text(target, field)) << other;
  }
  EXPECT_GE(marked, 8);
  EXPECT_GT(others, marked);
}

TEST(UpcycledModel, ImpossibleCombinationsAreOneLine) {
  const auto fails = [](const ModelConfig& target, const char* name, std::initializer_list<const char*> parts,
                        const ModelConfig& dense = dense_model()) {
    expect_input_error([&] { (void)upcycled_model(dense, target, mode(name), "c.json"); }, parts);
  };
  fails(experts(8, 3, 10), "virtual_group", {"c.json", "num_experts_per_tok = 3", "G = 2"});
  fails(experts(6, 4, 5), "virtual_group", {"c.json", "num_local_experts = 6", "G = 4"});
  fails(experts(8, 4, 7), "virtual_group", {"c.json", "moe_intermediate_size = 7", "20"});
  fails(experts(8, 4, 40), "virtual_group", {"c.json", "moe_intermediate_size = 40", "20"});
  fails(experts(8, 2, 10), "copy", {"c.json", "moe_intermediate_size = 10", "20", "virtual_group"});
  fails(experts(4, 5), "copy", {"c.json", "num_experts_per_tok", "5", "4"});
  fails(experts(0, 2), "copy", {"c.json", "model.num_local_experts", "none"});
  ModelConfig moe = dense_model();
  moe.num_local_experts = 4;
  fails(experts(8, 2), "copy", {"c.json", "dense model", "4 experts"}, moe);
  ModelConfig every = experts(8, 2);
  every.moe_every_n_layers = 3;
  fails(every, "copy", {"c.json", "moe_every_n_layers", "3", "2"});
  ModelConfig shared = experts(8, 2);
  shared.shared_expert = true;
  shared.shared_expert_size = 19;
  fails(shared, "copy", {"c.json", "shared_expert_size: found 19", "20"});
  shared.shared_expert_size = 20;
  shared.shared_expert_gate = true;
  fails(shared, "copy", {"c.json", "shared_expert_gate: found true", "false"});
}

ModelConfig made(std::int64_t E, std::int64_t k, std::int64_t G, const std::string& softmax) {
  return upcycled_model(dense_model(), experts(E, k, 20 / G, softmax), mode("virtual_group"), "c.json");
}

TEST(OutputScale, IsWhatTheDenseOutputNeeds) {
  struct Case {
    std::int64_t E, k, G;
    const char* softmax;
    double whole;
  };
  for (const Case& c : {Case{8, 2, 1, "topk_then_softmax", 1}, Case{8, 4, 2, "topk_then_softmax", 2},
                        Case{8, 4, 4, "topk_then_softmax", 4}, Case{8, 2, 1, "softmax_then_topk", 4},
                        Case{8, 4, 2, "softmax_then_topk", 4}, Case{8, 8, 4, "softmax_then_topk", 4},
                        Case{4, 4, 1, "softmax_then_topk", 1}}) {
    const ModelConfig m = made(c.E, c.k, c.G, c.softmax);
    EXPECT_EQ(slices(m, mode("virtual_group")), c.G);
    EXPECT_EQ(output_scale(m, mode("virtual_group", "none")), 1);
    for (const bool down : {false, true}) {
      EXPECT_EQ(matrix_scale(m, mode("virtual_group", "none"), down), 1);
      EXPECT_EQ(matrix_scale(m, mode("virtual_group", "down"), down), down ? c.whole : 1);
      EXPECT_NEAR(std::pow(matrix_scale(m, mode("virtual_group", "cube_root"), down), 3), c.whole, 1e-12);
    }
    EXPECT_EQ(output_scale(m, mode("virtual_group", "down")), c.whole);
    EXPECT_EQ(output_scale(m, mode("virtual_group", "cube_root")), c.whole);
  }
  EXPECT_EQ(slices(upcycled_model(dense_model(), experts(8, 2), mode("copy"), "c.json"), mode("copy")), 1);
  for (const auto& [softmax, whole] : {std::pair{"topk_then_softmax", 2.0}, {"softmax_then_topk", 2 * 2.0 / 4}}) {
    ModelConfig sigmoid = made(8, 4, 2, softmax);  // each chosen expert's score is a half where the router is zero
    sigmoid.router_score = "sigmoid";
    EXPECT_EQ(output_scale(sigmoid, mode("virtual_group", "down")), whole);
    UpcycleConfig u = mode("virtual_group", "down");
    EXPECT_EQ(promises_exact(sigmoid, u), whole == 2);
    u.router_std = 0;
    EXPECT_TRUE(promises_exact(sigmoid, u));
    sigmoid.num_experts_per_tok = sigmoid.num_local_experts;
    u.scale = "none";
    EXPECT_FALSE(promises_exact(sigmoid, u));
  }
}

TEST(DroppedUnits, AreCountedSortedAndTheirOwnPerLayerAndExpert) {
  for (const double ratio : {0.0, 0.1, 0.5, 0.77, 1.0}) {
    const auto units = dropped_units(3, 1, 2, 172, ratio);
    EXPECT_EQ(units.size(), static_cast<std::size_t>(std::lround(ratio * 172))) << ratio;
    EXPECT_TRUE(std::is_sorted(units.begin(), units.end()));
    EXPECT_EQ(std::set(units.begin(), units.end()).size(), units.size());
    for (const std::int64_t u : units) EXPECT_TRUE(u >= 0 && u < 172) << u;
  }
  const auto base = dropped_units(3, 1, 2, 172, 0.5);
  EXPECT_EQ(base, dropped_units(3, 1, 2, 172, 0.5));
  EXPECT_NE(base, dropped_units(4, 1, 2, 172, 0.5));
  EXPECT_NE(base, dropped_units(3, 2, 2, 172, 0.5));
  EXPECT_NE(base, dropped_units(3, 1, 3, 172, 0.5));
  EXPECT_NE(dropped_units(3, 1, 12, 172, 0.5), dropped_units(3, 11, 2, 172, 0.5));  // digits do not run together
  const auto more = dropped_units(3, 1, 2, 172, 0.75);
  EXPECT_TRUE(std::includes(more.begin(), more.end(), base.begin(), base.end()));
}

TEST(DroppedUnits, HaveNoFavourites) {
  std::vector<int> hits(40, 0);
  constexpr int kDraws = 2000;
  for (int e = 0; e < kDraws; ++e)
    for (const std::int64_t u : dropped_units(1, 0, e, 40, 0.25)) ++hits[static_cast<std::size_t>(u)];
  // Binomial: mean 500, standard deviation 19.4; five of them.
  for (const int n : hits) EXPECT_NEAR(n, kDraws / 4, 97);
}

std::vector<float> values(std::size_t n, double mean, double std) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<float>(mean + std * rng::normal(5, 6, i));
  return v;
}

MatrixStatistics plain(const std::vector<float>& v) {  // two passes in long double
  long double sum = 0, squares = 0;
  for (const float x : v) sum += x;
  const long double mean = sum / static_cast<long double>(v.size());
  for (const float x : v) squares += (x - mean) * (x - mean);
  return {static_cast<double>(mean), static_cast<double>(std::sqrt(squares / static_cast<long double>(v.size())))};
}

TEST(StatisticsSum, LimbsOfPartsAddUpToTheWhole) {
  std::vector<float> values;
  for (int i = 0; i < 3000; ++i) values.push_back(static_cast<float>(std::sin(i) * std::exp(i % 20 - 11) - 2.3));
  StatisticsSum whole;
  whole.add(values.data(), 3000);
  std::array<double, StatisticsSum::kLimbs> added{};
  for (int part = 0; part < 6; ++part) {
    StatisticsSum sum;
    sum.add(values.data() + part * 500, 500);
    const auto limbs = sum.limbs();
    for (std::size_t i = 0; i < limbs.size(); ++i) added[i] += limbs[i];
  }
  const MatrixStatistics want = whole.result(), got = StatisticsSum::from_limbs(added.data()).result();
  EXPECT_EQ(got.mean, want.mean);
  EXPECT_EQ(got.std, want.std);
  EXPECT_LT(want.mean, -0.5);  // negative sums too
}

TEST(StatisticsSum, IsRightAtEverySizeOfWeights) {
  for (const double size : {1e-6, 1e-3, 0.02, 1.0, 1000.0}) {
    const std::vector<float> v = values(20001, 0.3 * size, size);
    StatisticsSum sum;
    sum.add(v.data(), static_cast<std::int64_t>(v.size()));
    EXPECT_NEAR(sum.result().mean, plain(v).mean, 1e-9 * size);
    EXPECT_NEAR(sum.result().std, plain(v).std, 1e-6 * size);
  }
  EXPECT_EQ(StatisticsSum().result().std, 0);
  StatisticsSum same;
  const std::vector<float> ones(100, 1.0f);
  same.add(ones.data(), 100);
  EXPECT_EQ(same.result().mean, 1);
  EXPECT_EQ(same.result().std, 0);
}

TEST(StatisticsSum, DoesNotDependOnOrderOrPartition) {
  std::vector<float> v = values(5000, 0.01, 0.02);
  v[17] = 3e4f;  // in fp64 such values would make the order matter
  v[18] = 1e-9f;
  StatisticsSum whole;
  whole.add(v.data(), 5000);
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    for (std::size_t i = v.size() - 1; i > 0; --i) std::swap(v[i], v[rng::below(i + 1, seed, 9, i)]);
    StatisticsSum parts;
    for (std::int64_t at = 0, step = 1; at < 5000; at += step, step = 1 + (step * 7) % 311)
      parts.add(v.data() + at, std::min(step, 5000 - at));
    EXPECT_EQ(parts.result().mean, whole.result().mean);
    EXPECT_EQ(parts.result().std, whole.result().std);
  }
}

TEST(StatisticsSum, RefusesWhatItCanNotHold) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e6f}) {
    StatisticsSum sum;
    EXPECT_THROW(sum.add(&bad, 1), Error) << bad;
  }
}

}  // namespace
}  // namespace upcycle::test
