#include "launch/study/study.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "core/error.h"
#include "launch/study/grid.h"
#include "launch/study/study_plan.h"
#include "tests/source_root.h"

namespace upcycle {
namespace {

Study configured(const std::string& name, std::vector<std::string> overrides = {}) {
  if (name == "study_paper.json")  // its path is from the project's folder
    overrides.push_back("--serving.machine=" + (tests_root().parent_path() / "launch/machines/h100.json").string());
  return read_study((tests_root().parent_path() / "launch/configs" / name).string(), overrides);
}

std::vector<StudyRun> with_rates(const Study& s, double first, double second) {
  const auto chosen = [&](const StudyArm&, const Cell& cell) -> std::optional<double> {
    return cell == second_sweep_cell(s) ? second : first;
  };
  return known_runs(s, chosen, [](const auto&, const auto&) { return std::optional<double>{}; });
}

const StudyRun& find(const std::vector<StudyRun>& runs, const std::string& name) {
  const auto it = std::ranges::find(runs, name, &StudyRun::name);
  if (it == runs.end()) throw std::runtime_error("no run " + name);
  return *it;
}

TEST(Study, ThePapersGridHasItsTokens) {
  const Study s = configured("study_paper.json");
  const std::vector<StudyRun> runs = planned_runs(s);
  EXPECT_EQ(std::ranges::count(runs, "pretraining", &StudyRun::kind), 5);
  EXPECT_EQ(std::ranges::count(runs, "cpt", &StudyRun::arm), 23);
  EXPECT_EQ(std::ranges::count(runs, "upcycled", &StudyRun::arm), 23);
  const auto billions = [&](const char* name) { return static_cast<double>(find(runs, name).tokens) / 1e9; };
  // As published, with the digits that are published.
  EXPECT_NEAR(billions("436M-d100"), 43.6, 0.05);
  EXPECT_NEAR(billions("1.4B-d250"), 354, 0.5);
  EXPECT_NEAR(billions("436M-d100-b0.1-cpt-lr5e-05-s1"), 4.3, 0.1);
  EXPECT_NEAR(billions("436M-d100-b0.1-upcycled-lr0.0001-s1"), 3.2, 0.1);
  EXPECT_NEAR(billions("436M-d100-b0.8-upcycled-lr0.0001-s1"), 26, 0.5);
  EXPECT_NEAR(billions("436M-d230-b1-upcycled-lr0.0001-s1"), 75, 0.5);
  EXPECT_NEAR(billions("1.4B-d100-b0.4-upcycled-lr5e-05-s1"), 38.6, 0.1);
  EXPECT_NEAR(billions("1.4B-d250-b0.8-upcycled-lr5e-05-s1"), 193, 0.5);
}

TEST(Study, TheSmallOneHasAtMost5e14Flops) {
  double flops = 0;
  for (const StudyRun& run : planned_runs(configured("study_small.json"))) flops += run.own_flops;
  EXPECT_LE(flops, 5e14);
  EXPECT_GT(flops, 4e14);
}

TEST(Study, ArmsOfABudgetHaveEqualFlopsOrTokens) {
  const Study s = configured("study_small.json");
  const std::vector<StudyRun> runs = planned_runs(s);
  const StudyRun& dense = find(runs, "260K-d60");
  const StudyRun& cpt = find(runs, "260K-d60-b0.8-cpt-lr0.01-s1");
  const StudyRun& moe = find(runs, "260K-d60-b0.8-upcycled-lr0.01-s1");
  EXPECT_NEAR(cpt.flops / dense.flops, 0.8, 1e-3);
  EXPECT_NEAR(moe.flops / cpt.flops, 1, 1e-3);
  EXPECT_LT(moe.tokens, cpt.tokens);
  EXPECT_EQ(moe.config.data.seed, cpt.config.data.seed);
  EXPECT_EQ(moe.config.init.upcycle, "runs/small/runs/260K-d60");
  EXPECT_EQ(cpt.config.init.load, "runs/small/runs/260K-d60");
  EXPECT_EQ(moe.needs, std::vector<std::string>{"260K-d60"});

  Study tokens = s;
  tokens.match = Match::Tokens;
  const std::vector<StudyRun> equal = planned_runs(tokens);
  EXPECT_EQ(find(equal, cpt.name).tokens, find(equal, moe.name).tokens);

  Study time = s;
  time.match = Match::WallTime;
  const auto chosen = [](const StudyArm&, const Cell&) { return std::optional<double>{2e-3}; };
  const auto half = [](const std::string&, const std::string& arm) -> std::optional<double> {
    return arm == "cpt" ? 1000 : 500;
  };
  const std::vector<StudyRun> timed = known_runs(time, chosen, half);
  EXPECT_NEAR(static_cast<double>(find(timed, moe.name).tokens) / static_cast<double>(find(timed, cpt.name).tokens),
              0.5, 1e-3);
  const auto unknown = [](const std::string&, const std::string&) { return std::optional<double>{}; };
  for (const StudyRun& run : known_runs(time, chosen, unknown)) EXPECT_EQ(run.kind, "pretraining");
}

TEST(Study, ResultsFollowTheirSweeps) {
  const Study s = configured("study_small.json");
  const auto none = [](const StudyArm&, const Cell&) { return std::optional<double>{}; };
  const auto unmeasured = [](const std::string&, const std::string&) { return std::optional<double>{}; };
  for (const StudyRun& run : known_runs(s, none, unmeasured))
    EXPECT_TRUE(run.sweep || run.kind == "pretraining") << run.name;
  // Two sweeps of two arms with three rates.
  const std::vector<StudyRun> first = known_runs(s, none, unmeasured);
  EXPECT_EQ(std::ranges::count(first, true, &StudyRun::sweep), 12);
  // Both rules agree: each cell once. They differ: the second sweep's cell has results at both rates.
  const auto results = [&](double a, double b) {
    const auto runs = with_rates(s, a, b);
    return std::ranges::count_if(runs, [](const StudyRun& r) { return r.result && r.arm == "cpt"; });
  };
  EXPECT_EQ(results(2e-3, 2e-3), 5 * 2 + 3);
  EXPECT_EQ(results(2e-3, 1e-3), 5 * 2 + 3 + 3);
}

TEST(Study, BranchesOfATrunkShareItsSteps) {
  Study s = configured("study_small.json");
  s.trunk = true;
  const std::vector<StudyRun> runs = planned_runs(s);
  const StudyRun& last = find(runs, "260K-d60-b0.8-cpt-lr0.01-s1");
  const StudyRun& trunk = find(runs, last.continues);
  EXPECT_EQ(trunk.kind, "trunk");
  EXPECT_EQ(trunk.config.train.schedule, "constant");
  EXPECT_EQ(last.config.train.schedule, "wsd");
  const TrainConfig& t = last.config.train;
  EXPECT_EQ(trunk.config.train.steps, t.steps - std::llround(t.decay_fraction * static_cast<double>(t.steps)));
  EXPECT_EQ(find(runs, trunk.continues).kind, "trunk");
  EXPECT_DOUBLE_EQ(last.own_flops, last.flops - trunk.flops);
  double own = 0, alone = 0;
  for (const StudyRun& run : runs) own += run.own_flops;
  for (const StudyRun& run : planned_runs(configured("study_small.json"))) alone += run.own_flops;
  EXPECT_LT(own, alone);
}

std::string refusal(const std::vector<std::string>& overrides, const std::string& name = "study_small.json") {
  try {
    const Study s = configured(name, overrides);
    check_runs(s, planned_runs(s));
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(Study, WhatCanNotBeIsRefusedByName) {
  EXPECT_NE(refusal({"--arms.cpt.learning_rates=[1e-3,2e-3]"}).find("arms.cpt.learning_rates: found 2 rates"),
            std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.learning_rates=[1e-3]"}).find("arms.upcycled.learning_rates: found 3 rates"),
            std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.lerning_rates=[1e-3]"}).find("perhaps 'learning_rates'"), std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.run.data.train=other"}).find("arms.cpt.run.data"), std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.run.train.lrr=1"}).find("train.lrr"), std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.run.model.num_local_experts=4"}).find("arms.cpt.run.model"), std::string::npos);
  EXPECT_NE(refusal({"--arms.drop.learning_rate_of=nobody"}).find("nobody"), std::string::npos);
  EXPECT_NE(refusal({"--sizes.260K.load=nowhere"}).find("model and load"), std::string::npos);
  EXPECT_NE(refusal({"--verdict.budget=0.3"}).find("verdict.budget: found 0.3"), std::string::npos);
  EXPECT_NE(refusal({"--continuation.budgets=[0.4,0.2]"}).find("continuation.budgets"), std::string::npos);
  EXPECT_NE(refusal({"--cloze.items=10"}).find("cloze.items"), std::string::npos);
  EXPECT_NE(refusal({"--verdict.seeds=100000000"}).find("1 to 1000"), std::string::npos);
  EXPECT_NE(refusal({"--serving.machine=h100.json"}).find("serving.machine"), std::string::npos);
  EXPECT_NE(refusal({"--candidate=scratch"}).find("candidate"), std::string::npos);
  EXPECT_NE(refusal({"--arms.upcycled.run.model.vocab_size=300"}).find("arms.upcycled.run.model.vocab_size"),
            std::string::npos);
  EXPECT_NE(refusal({"--serving.measure=false", "--serving.machine=nowhere.json", "--serving.training_mfu=0.4"})
                .find("nowhere.json"),
            std::string::npos);
  EXPECT_NE(refusal({"--serving.input_len=500"}).find("512 positions"), std::string::npos);
  EXPECT_NE(refusal({"--data.valid.new=runs/text/new_train"}).find("no run trains on"), std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.learning_rates=[1e-3,1.0000001e-3,2e-3]"}).find("two runs named"), std::string::npos);
}

TEST(Study, ArmsThatAreTrainedDifferentlyAreRefused) {
  EXPECT_NE(refusal({"--arms.cpt.run.train.seq_length=128"}).find("train.seq_length: found 256"), std::string::npos);
  EXPECT_NE(refusal({"--pretraining.run.train.seq_length=128"}).find("pretraining.run.train.seq_length: found 128"),
            std::string::npos);
  EXPECT_NE(refusal({"--arms.cpt.run.train.schedule=constant"}).find("train.schedule: found constant"),
            std::string::npos);
  EXPECT_NE(refusal({"--pretraining.run.train.schedule=constant"}).find("260K-d20: train.schedule"), std::string::npos);
  EXPECT_NE(refusal({"--arms.upcycled.run.train.schedule=wsd"}).find("arms.upcycled.run.train.schedule"),
            std::string::npos);
  EXPECT_NE(refusal({"--arms.upcycled.run.dtype=bf16"}).find("arms.upcycled.run.dtype: found \"bf16\""),
            std::string::npos);
  EXPECT_NE(refusal({"--arms.k1.run.train.global_batch_size=32"}).find("arms.k1.run.train.global_batch_size"),
            std::string::npos);
  EXPECT_NE(refusal({"--continuation.run.train.warmup_steps=100"}).find("at most 0.1 of the shortest budget"),
            std::string::npos);
}

TEST(Study, TheStudiesThatComeWithItCanBeRun) {
  for (const char* name : {"study_small.json", "study_medium.json", "study_smoke.json", "study_paper.json"})
    EXPECT_EQ(refusal({}, name), "") << name;
  EXPECT_EQ(refusal({"--continuation.trunk=true"}), "");
}

}  // namespace
}  // namespace upcycle
