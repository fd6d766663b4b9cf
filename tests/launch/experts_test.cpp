#include <cmath>
#include <filesystem>

#include "data/safetensors.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/upcycle/experts_observer.h"
#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// `upcycle experts`: what it says of experts whose similarity is known.
namespace upcycle {
namespace {

using nlohmann::json;

struct Experts : ::testing::Test {
  SmallRun small;
  const std::string dense = small.train("dense");

  // Upcycles the dense run and takes a step that changes nothing, or `changes`.
  std::string upcycled(const std::string& name, json changes = {}) const {
    json all = {{"init", {{"upcycle", dense}}},
                {"model", {{"num_local_experts", 4}}},
                {"train", {{"steps", 1}, {"lr", 0}, {"min_lr", 0}}}};
    if (!changes.is_null()) all.merge_patch(changes);
    return small.train(name, all);
  }
  Words experts(const std::string& model, const Words& more = {}) const {
    Words words{"experts", model, "--data=" + small.file("train"), "--tokens=256", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

void expect_all(const json& list, double expected, double tolerance, const std::string& what) {
  ASSERT_EQ(list.size(), 2u) << what;
  for (const json& x : list) EXPECT_NEAR(x.get<double>(), expected, tolerance) << what;
}

TEST_F(Experts, ThatWereJustCopiedAreAllTheSame) {
  const std::string run = upcycled("moe", {{"upcycle", {{"router_std", 0}}}});
  const json found = json_of(experts(run, {"--since=" + run}));
  EXPECT_EQ(found["layers"], json({0, 1}));
  EXPECT_EQ(found["tokens"], 256);
  for (const char* key : {"weight_cosine", "pair_cosine", "pair_cosine_min"}) expect_all(found[key], 1, 1e-12, key);
  expect_all(found["output_cosine"], 1, 1e-9, "output_cosine");
  expect_all(found["entropy"], std::log(4), 1e-6, "entropy of a router of zeros");
  EXPECT_EQ(found["load"], json({{0.5, 0.5, 0, 0}, {0.5, 0.5, 0, 0}})) << "ties go to the lower index";
  EXPECT_EQ(found["routing_changed"], json({0, 0}));
  EXPECT_EQ(json_of(experts(run))["routing_changed"], nullptr);
}

// Whatever makes the experts differ from the dense MLP, and from each other, is part of the start.
TEST_F(Experts, StartIsMadeAgainInEveryMode) {
  const json shared = {{"model", {{"shared_expert", true}}}};
  const std::vector<std::pair<std::string, json>> modes = {
      {"drop", {{"upcycle", {{"drop_ratio", 0.5}}}, {"seed", 3}}},
      {"noise", {{"upcycle", {{"noise_std", 0.02}}}, {"dtype", "bf16"}}},
      {"groups",
       {{"upcycle", {{"mode", "virtual_group"}, {"scale", "down"}}}, {"model", {{"moe_intermediate_size", 32}}}}},
      {"shared", shared},
      {"random", {{"init", {{"upcycle", ""}}}, {"dtype", "bf16"}}},
      {"loaded", {{"init", {{"upcycle", ""}, {"load", small.file("drop")}}}}}};
  for (const auto& [name, changes] : modes) {
    const json found = json_of(experts(upcycled(name, changes)));
    expect_all(found["weight_cosine"], 1, 1e-12, name);
    if (name == "shared") {
      EXPECT_EQ(found["output_cosine"], json({nullptr, nullptr})) << "outputs of zeros have no direction";
      expect_all(found["pair_cosine"], 1, 1e-12, name);
      continue;
    }
    for (const char* key : {"pair_cosine", "output_cosine"})
      for (const json& x : found[key]) EXPECT_LT(x, 0.999) << name << " " << key;
  }
}

// The cosine of two experts of the same layer of two models, by hand.
double cosine(TensorSource& a, int expert_a, TensorSource& b, int expert_b) {
  double ab = 0, aa = 0, bb = 0;
  for (const ParamRole role : {ParamRole::ExpertGate, ParamRole::ExpertUp, ParamRole::ExpertDown}) {
    const bool down = role == ParamRole::ExpertDown;
    const Rectangle all{0, 0, down ? 32 : 64, down ? 64 : 32};
    std::vector<float> x(32 * 64), y(32 * 64);
    a.read(canonical_name(role, 1, expert_a), all, x.data());
    b.read(canonical_name(role, 1, expert_b), all, y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      ab += double(x[i]) * double(y[i]);
      aa += double(x[i]) * double(x[i]);
      bb += double(y[i]) * double(y[i]);
    }
  }
  return ab / std::sqrt(aa * bb);
}

TEST_F(Experts, ThatWereTrainedHaveTheCosinesOfTheirWeights) {
  const std::string start = upcycled("start", {{"upcycle", {{"noise_std", 0.02}}}});
  const std::string run =
      upcycled("run", {{"upcycle", {{"noise_std", 0.02}}}, {"train", {{"steps", 8}, {"lr", 0.02}, {"min_lr", 0.02}}}});
  const json found = json_of(experts(run, {"--since=" + start}));
  const auto now = open_model(run), then = open_model(start);
  double drift = 0, pairs = 0, least = 1;
  for (int a = 0; a < 4; ++a) {
    drift += cosine(*now, a, *then, a) / 4;
    for (int b = a + 1; b < 4; ++b) {
      const double c = cosine(*now, a, *now, b);
      pairs += c / 6;
      least = std::min(least, c);
    }
  }
  EXPECT_LT(drift, 0.999);
  EXPECT_NEAR(double(found["weight_cosine"][1]), drift, 1e-9);
  EXPECT_NEAR(double(found["pair_cosine"][1]), pairs, 1e-9);
  EXPECT_NEAR(double(found["pair_cosine_min"][1]), least, 1e-9);
  for (const json& load : found["load"]) {
    double sum = 0;
    for (const json& share : load) sum += double(share);
    EXPECT_NEAR(sum, 1, 1e-12);
  }
  for (const json& changed : found["routing_changed"]) EXPECT_GT(changed, 0);
}

// One of four equal experts, in the layer of which the second half of the weights' file tells, gives the opposite.
TEST_F(Experts, OneWithTheOppositeDownIsOppositeInItsOutputs) {
  ASSERT_EQ(run_upcycle({"export", upcycled("moe"), small.file("hf")}).exit_code, 0);
  const std::string name = "model.layers.1.block_sparse_moe.experts.2.w2.weight";
  const SafetensorsSet set = SafetensorsSet::open(small.file("hf"));
  const StoredTensor down = set.info(name);
  std::string bytes = text_of(set.path_of(name));
  for (std::size_t i = 0; i < 32 * 64; ++i) bytes[down.begin + 4 * i + 3] ^= static_cast<char>(0x80);  // the sign
  write_bytes(set.path_of(name), bytes);

  const Outcome o = run_upcycle(experts(small.file("hf")));
  const json found = json::parse(o.out, nullptr, false);
  ASSERT_TRUE(found.is_object()) << o.err;
  EXPECT_EQ(found["weight_cosine"], nullptr);
  EXPECT_NE(o.err.find("does not say what it started from"), std::string::npos) << o.err;
  const auto model = open_model(small.file("hf"));
  const double c = cosine(*model, 0, *model, 2);
  EXPECT_LT(c, 0.9);
  EXPECT_NEAR(double(found["output_cosine"][0]), 1, 1e-9);
  EXPECT_NEAR(double(found["output_cosine"][1]), 0, 1e-9) << "three pairs agree, three are opposite";
  EXPECT_NEAR(double(found["pair_cosine"][1]), (3 + 3 * c) / 6, 1e-9);
  EXPECT_NEAR(double(found["pair_cosine_min"][1]), c, 1e-9);
  EXPECT_NEAR(double(found["pair_cosine_min"][0]), 1, 1e-9);
}

TEST(RoutingChanged, CountsChosenExpertsWhateverTheirOrder) {
  ObservedExperts a, b;
  a.chosen = {0, 1, 2, 3, 3, 1};
  b.chosen = {1, 0, 3, 0, 0, 2};
  EXPECT_DOUBLE_EQ(routing_changed(a, b, 2), 3.0 / 6);
  EXPECT_DOUBLE_EQ(routing_changed(a, a, 2), 0);
}

TEST_F(Experts, WithoutTheirStartHaveNoCosineWithIt) {
  const std::string run = upcycled("moe");
  const std::string live = small.train("live", {{"init", {{"load", dense}}},
                                                {"model", {{"num_local_experts", 4}}},
                                                {"upcycle", {{"at_step", 1}}},
                                                {"train", {{"steps", 2}}}});
  std::filesystem::rename(dense, small.file("elsewhere"));
  for (const auto& [model, why] : {std::pair{run, dense + ": found no such folder"}, {live, "upcycle.at_step"}}) {
    const Outcome o = run_upcycle(experts(model));
    EXPECT_NE(o.err.find("the start of"), std::string::npos) << o.err;
    EXPECT_NE(o.err.find(why), std::string::npos) << o.err;
    const json found = json::parse(o.out, nullptr, false);
    ASSERT_TRUE(found.is_object()) << o.err;
    EXPECT_EQ(found["weight_cosine"], nullptr);
    EXPECT_EQ(found["pair_cosine"].size(), 2u);
  }
}

TEST_F(Experts, WhatCanNotBeComparedIsOneLine) {
  const std::string run = upcycled("moe"), more = upcycled("more", {{"model", {{"num_local_experts", 8}}}});
  expect_one_line(run_upcycle(experts(dense)), {dense, "a dense model", "Mixture-of-Experts"});
  expect_one_line(run_upcycle(experts(run, {"--since=" + dense})), {dense, "a dense model"});
  expect_one_line(run_upcycle(experts(run, {"--since=" + more})), {more, "num_local_experts: found 8, expected 4"});
  expect_one_line(run_upcycle(experts(run, {"--tokens=15"})), {"--tokens", "found 15", "16 or more"});
  expect_one_line(run_ranks(2, experts(run)), {"found 2 ranks, expected one", "upcycle experts"});
}

}  // namespace
}  // namespace upcycle
