#include <gtest/gtest.h>

#include "parallel/serve/machine.h"
#include "tests/launch/small_study.h"

namespace upcycle {
namespace {

using namespace small_study;

TEST(Report, CostsAndBreakEvenByHand) {
  const Json report = make_report(study(), results(), serving());
  EXPECT_EQ(report["serving"][0]["arm"], "");
  EXPECT_EQ(report["serving"][1]["share_of_dense"], 0.5);
  EXPECT_EQ(report["serving"][1]["device_seconds_per_token"], 1e-4);
  EXPECT_EQ(report["serving"][1]["curve"][0].dump(),
            R"({"request_rate":10,"tokens_per_second":10000.0,"latency":0.3,"sustained":true})");
  ASSERT_EQ(report["break_even"].size(), 3u);
  for (const Json& b : report["break_even"])
    EXPECT_TRUE(b["unit"].get<std::string>().starts_with("device-seconds, measured here"));
  // At 0.2 the MoE is worse than the smallest budget; at 0.4 it is as good as a run that costs as much; at 0.8 no run
  // reaches it, and the largest costs as much.
  EXPECT_TRUE(report["break_even"][0]["answer"].get<std::string>().starts_with("at once"));
  EXPECT_TRUE(report["break_even"][2]["answer"].get<std::string>().starts_with("not known: no continued"));
  std::vector<StudyResult> faster = results();
  for (StudyResult& r : faster)
    if (r.run.arm == "moe") r.measures.wall_seconds /= 2;
  // Whichever of them the machine was slow for: all runs of an arm count at their mean time per token.
  faster[2].measures.wall_seconds += 50;
  faster[10].measures.wall_seconds -= 50;
  const Json again = make_report(study(), faster, serving());
  const Json& last = again["break_even"][2];
  EXPECT_NEAR(last["served_tokens"].get<double>(), (800 - 400) / (1e-4 - 0.5e-4), 1);
  EXPECT_TRUE(last["answer"].get<std::string>().starts_with("more than 8e6 served tokens")) << last["answer"];
  EXPECT_EQ(last["moe_seconds"], 400);
  EXPECT_FALSE(last["equal_total"].empty());
}

TEST(Report, TrainingIsItsTokensAtTheSpeedOfAStepThatWasTimedAlone) {
  std::vector<StudyResult> disturbed = results();
  disturbed[2].measures.wall_seconds *= 7;
  disturbed[2].measures.tokens_per_s /= 7;
  const TrainingRates rates{{{"1M", ""}, {1e4, 2}}, {{"1M", "moe"}, {8e4, 2}}};
  const Json report = make_report(study(), disturbed, serving(), rates);
  const Json& last = report["break_even"][2];
  EXPECT_NE(last["unit"].get<std::string>().find("timed while nothing else ran"), std::string::npos);
  EXPECT_DOUBLE_EQ(last["moe_seconds"], 1.6e7 / 8e4 * 2);
  EXPECT_NEAR(last["served_tokens"].get<double>(), (1.6e7 / 1e4 * 2 - 400) / (1e-4 - 0.5e-4), 1);
  EXPECT_EQ(report["study"]["notes"].dump().find("in tokens/s"), std::string::npos);
  // Not timed, or one of the two only: the runs say it, and the notes how far they differ.
  const Json by_runs = make_report(study(), disturbed, serving());
  EXPECT_NE(by_runs["study"]["notes"].dump().find("differ by up to 7 times in tokens/s"), std::string::npos);
  EXPECT_EQ(make_report(study(), disturbed, serving(), {{{"1M", ""}, {1e4, 2}}})["break_even"], by_runs["break_even"]);
}

TEST(Report, RunsThatDidNotDecayMakeNoBreakEven) {
  std::vector<StudyResult> there = results();
  for (StudyResult& r : there)
    if (r.run.arm == "cpt" && r.run.cell.budget == 0.8) r.run.config.train.schedule = "constant";
  const Json report = make_report(study(), there, serving());
  // What cost most is now the run at 0.4, which reaches the MoE's loss at 0.4 but not that at 0.8.
  EXPECT_EQ(report["break_even"][2]["cpt_seconds_to_reach"], nullptr);
  EXPECT_NE(report["study"]["notes"].dump().find("constant learning rate"), std::string::npos);
  for (const Json& e : report["break_even"][0]["equal_total"])
    EXPECT_TRUE(e["baseline_loss"].is_null() || e["baseline_loss"] > 2.95);
}

TEST(Report, PredictedServingIsSetAgainstPredictedTraining) {
  Study s = study();
  s.serving.machine = testing::TempDir() + "/upcycle_report_machine.json";
  write_machine(s.serving.machine,
                {.name = "a GPU",
                 .memory_bytes = 8e10,
                 .memory_utilization = 0.9,
                 .memory_rate = 3e12,
                 .product_rate_bf16 = 400e12,
                 .product_rate_fp32 = 60e12,
                 .expert_efficiency = 0.5,
                 .attention_efficiency = 0.5,
                 .link_rate = 3e11},
                "made up");
  s.serving.training_mfu = 0.5;
  std::vector<ServingResult> served = serving();
  for (ServingResult& r : served) r.source = "predicted";
  const Json b = make_report(s, results(), served)["break_even"][2];
  EXPECT_NEAR(b["moe_seconds"].get<double>(), 1.2e14 * 0.8 / (0.5 * 400e12), 1e-9);
  EXPECT_NE(b["unit"].get<std::string>().find("device-seconds of a GPU"), std::string::npos);
  served[0].source = "measured";  // the two are not mixed
  EXPECT_EQ(make_report(s, results(), served)["break_even"][2]["answer"], "not known: what serving costs is not known");
}

}  // namespace
}  // namespace upcycle
