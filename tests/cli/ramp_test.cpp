#include <fmt/core.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// Batches that grow (train.rampup_batch_size) and rates by parameter, as a user runs them.
namespace upcycle {
namespace {

using nlohmann::json;

// Batches of 2, 2, 4, 6, 8, 8 of 32 tokens: 2 more after each 2 of the first 6 sequences... 30 sequences in all.
json ramp(std::int64_t tokens = 900) {
  return {{"train",
           {{"steps", nullptr},
            {"tokens", tokens},
            {"global_batch_size", 8},
            {"rampup_batch_size", {2, 2, 12}},
            {"decoupled_lr", 0.02},
            {"param_groups", {{{"params", "*norm*"}, {"lr_mult", 0.5}}}}}},
          {"checkpoint", {{"every", 2}}}};
}

std::vector<std::int64_t> batches(const std::string& run) {
  std::vector<std::int64_t> sizes;
  for (const json& line : step_lines(run)) sizes.push_back(line["batch_size"]);
  return sizes;
}

// Increments at 4, 8 and 12 sequences: steps at 0, 2, 4, 8, 14, 22.
const std::vector<std::int64_t> sizes{2, 2, 4, 6, 8, 8};

TEST(BatchRamp, GrowsTheBatchAndIsSaid) {
  const SmallRun small;
  const Outcome o = run_upcycle({"train", small.write_config("run", ramp())});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::string run = small.file("run");
  EXPECT_EQ(batches(run), sizes);
  const std::vector<json> lines = step_lines(run);
  EXPECT_EQ(lines[0]["tokens"], 64);
  EXPECT_EQ(lines.back()["tokens"], 960);
  EXPECT_NEAR(lines.back()["lr"].get<double>(), 0.001, 1e-12);
  EXPECT_GT(lines[0]["decoupled_lr"].get<double>(), 1.9 * lines[0]["lr"].get<double>());
  const json end = json_of({"inspect", run, "--json"});
  EXPECT_EQ(end["step"], 6);
  EXPECT_EQ(end["consumed_samples"], 30);
  for (const char* part :
       {"6 steps of 64 to 256 tokens = 960 (batch: 2 sequences, 2 more at a time, 8 after 12)", "the run reads 30",
        "step 1/6  batch 2  loss", "step 6/6  batch 8  loss", "parameters '*norm*': 5 of",
        "learning rate 0.005 to 0.0005", "parameters others (embedding and output layer): 2 of"})
    EXPECT_NE(o.err.find(part), o.err.npos) << part << " in " << o.err;
}

// Taken up again after its second step, of 2 sequences, and its fourth, of 6: the files are those of the run that went
// through, and so is every number of a step.
TEST(BatchRamp, ARunResumedInItIsTheSameBitForBit) {
  const SmallRun small;
  const std::string through = small.train("through", ramp());
  const std::vector<json> want = step_lines(through);
  for (const std::size_t first : {2, 4}) {
    const std::string name = fmt::format("from{}", first);
    std::filesystem::copy(through, small.file(name), std::filesystem::copy_options::recursive);
    write_bytes(small.file(name) + "/latest", fmt::format("step_{:08d}\n", first));
    const std::string run = small.train(name, ramp());
    EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(through));
    const std::vector<json> lines = step_lines(run);
    ASSERT_EQ(lines.size(), 6 + 6 - first);
    for (std::size_t i = first; i < 6; ++i)
      for (const char* key : {"step", "tokens", "batch_size", "loss", "lr", "decoupled_lr", "grad_norm"})
        EXPECT_EQ(lines[6 + i - first][key], want[i][key]) << key << " of step " << i + 1;
  }
}

TEST(BatchRamp, TwoRanksReadTheSameSequences) {
  const SmallRun small;
  json one = ramp();
  one["train"]["micro_batch_size"] = 1;
  const std::vector<json> a = step_lines(small.train("one", one)), b = step_lines(small.train("two", one, 2));
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i]["batch_size"], b[i]["batch_size"]);
    EXPECT_EQ(a[i]["tokens"], b[i]["tokens"]);
    EXPECT_NEAR(a[i]["loss"].get<double>(), b[i]["loss"].get<double>(), 1e-4);
  }
}

TEST(BatchRamp, WhatDoesNotDivideIsRefused) {
  const SmallRun small;
  const auto error = [&](const json& changes, int ranks = 1) {
    const std::string config = small.write_config("bad", changes);
    const Outcome o = ranks == 1 ? run_upcycle({"train", config}) : run_ranks(ranks, {"train", config});
    EXPECT_EQ(o.exit_code, 2);
    return o.err;
  };
  json bad = ramp();
  bad["train"]["rampup_batch_size"] = {3, 5, 12};
  EXPECT_NE(error(bad).find("train.rampup_batch_size: found a start of 3, expected a multiple of "
                            "train.micro_batch_size = 2"),
            std::string::npos);
  EXPECT_NE(error(ramp(), 2).find("train.rampup_batch_size: found a start of 2, expected a multiple of "
                                  "train.micro_batch_size * dp = 2 * 2 = 4"),
            std::string::npos);
  bad = ramp();
  bad["train"]["param_groups"] = {{{"params", "*.router.weight"}, {"lr_mult", 0.5}}};
  const std::string line = error(bad);
  EXPECT_NE(line.find("train.param_groups: found '*.router.weight', expected a pattern that matches a parameter, such "
                      "as "),
            std::string::npos)
      << line;
  EXPECT_EQ(line.find("layout"), std::string::npos) << line;  // none would mend it
}

// A plan, and a benchmark, are of a step of the whole batch.
TEST(BatchRamp, APlanIsOfTheWholeBatch) {
  const SmallRun small;
  json without = ramp();
  without["train"].erase("rampup_batch_size");
  const std::string a = small.write_config("ramp", ramp()), b = small.write_config("none", without);
  EXPECT_EQ(json_of({"plan", a, "--json"}), json_of({"plan", b, "--json"}));
  const Outcome o = run_upcycle({"plan", a});
  EXPECT_NE(o.out.find("the first 4 steps are smaller: 2 sequences and more in the place of 8"), o.out.npos) << o.out;
  // Micro batches of 1 and 2 only: no larger one divides each batch.
  const json fit = json_of({"plan", a, "--fit", "--world=1", "--memory=1GiB", "--json"});
  ASSERT_FALSE(fit["fits"].empty()) << fit;
  EXPECT_LE(fit["fits"][0]["micro_batch_size"].get<int>(), 2);
}

}  // namespace
}  // namespace upcycle
