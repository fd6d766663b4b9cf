#include <gtest/gtest.h>

#include "tests/launch/small_study.h"

namespace upcycle {
namespace {

using namespace small_study;

// The same study with three rates for each arm: at 0.2 both are best at 1e-3; at 0.8 cpt is best at 5e-4.
Study swept_study() {
  Study s = study();
  for (StudyArm& arm : s.arms) arm.learning_rates[""] = {5e-4, 1e-3, 2e-3};
  return s;
}
std::vector<StudyResult> swept_results() {
  std::vector<StudyResult> all = results();
  for (StudyResult& r : all) r.run.sweep = r.run.seed == 1 && r.run.cell.budget != 0.4;
  for (const double budget : {0.2, 0.8})
    for (const char* arm : {"cpt", "moe"})
      for (const double lr : {5e-4, 2e-3}) {
        StudyResult r = run(arm, budget, 1);
        r.run.lr = lr;
        r.run.name += fmt::format("-lr{:g}", lr);
        r.run.sweep = true;
        const bool best = budget == 0.8 && r.run.arm == "cpt" && lr == 5e-4;
        r.run.result = best;
        for (DocumentLoss& d : r.measures.sets[1].documents) d.loss += best ? -0.8 : 0.3;  // 0.08 and 0.03 nats
        all.push_back(r);
        if (!best) continue;
        r.run.seed = 2;
        r.run.sweep = false;
        r.run.name += "-s2";
        all.push_back(r);
      }
  return all;
}

TEST(Report, GivesThePapersRuleAndTheBestPerBudget) {
  const Json report = make_report(swept_study(), swept_results(), {});
  ASSERT_EQ(report["sweeps"].size(), 4u);
  EXPECT_EQ(report["sweeps"][0]["rule"], "paper");
  EXPECT_EQ(report["sweeps"][0]["best"], 1e-3);
  EXPECT_EQ(report["sweeps"][0]["interior"], true);
  EXPECT_EQ(report["sweeps"][0]["flops"], 3 * 1.2e14 * 0.2);
  EXPECT_EQ(report["sweeps"][2]["rule"], "again");
  EXPECT_EQ(report["sweeps"][2]["best"], 5e-4);
  EXPECT_EQ(report["sweeps"][2]["interior"], false);
  EXPECT_EQ(report["sweeps"][3]["best"], 1e-3);
  EXPECT_EQ(comparison_at(report, 0.8, "new", "paper")["says"], "better");
  const Json again = comparison_at(report, 0.8, "new", "best per budget");
  EXPECT_EQ(again["says"], "worse");  // cpt gains 0.08 by its own rate
  EXPECT_NEAR(again["difference"].get<double>(), 0.03, 0.006);
  EXPECT_TRUE(comparison_at(report, 0.4, "new", "best per budget").is_null());
  const std::string verdict = report["verdict"];
  EXPECT_NE(verdict.find("With the rates that are best at 0.8 of the pretraining budget itself, cpt is better there"),
            std::string::npos)
      << verdict;
  EXPECT_NE(verdict.find("The learning rate of cpt (5e-4) is not known to be best"), std::string::npos) << verdict;
}

TEST(Report, ATrunkIsCountedOnceAndAFailedRunNotAtAll) {
  Study s = swept_study();
  std::vector<StudyResult> there = swept_results();
  StudyResult trunk = run("moe", 0.2, 1);
  trunk.run.name = "trunk";
  trunk.run.kind = "trunk";
  trunk.run.result = false;
  trunk.run.own_flops = 1e12;
  trunk.measures.wall_seconds = 50;
  for (StudyResult& r : there)
    if (r.run.arm == "moe" && r.run.lr == 2e-3) {  // at 0.2 and 0.8, both in a sweep
      r.run.continues = "trunk";
      r.run.own_flops = r.run.flops - 1e12;
    }
  there.push_back(trunk);
  const Json report = make_report(s, there, {});
  EXPECT_EQ(report["sweeps"][1]["flops"], 3 * 1.2e14 * 0.2);
  EXPECT_EQ(report["sweeps"][1]["wall_seconds"], 3 * 200);
  EXPECT_EQ(report["sweeps"][3]["flops"], 3 * 1.2e14 * 0.8 - 1e12);
  EXPECT_EQ(report["sweeps"][3]["wall_seconds"], 3 * 800 - 50);
  for (const Json& r : report["runs"])
    if (r["arm"] == "moe" && r["learning_rate"] == 2e-3 && r["budget"] == 0.2) {
      EXPECT_EQ(r["own_device_seconds"], 150);
      EXPECT_EQ(r["own_flops"], 1.2e14 * 0.2 - 1e12);
    }
  for (StudyResult& r : there)
    if (r.run.arm == "cpt" && r.run.sweep) r.status = "failed";
  EXPECT_EQ(make_report(s, there, {})["sweeps"][0]["flops"], 0);
}

TEST(Report, AnArmThatTakesAnothersRateIsComparedWithIt) {
  Study s = swept_study();
  StudyArm k1;
  k1.name = "k1";
  k1.from = StartsFrom::Upcycle;
  k1.lr_of = "moe";
  s.arms.push_back(k1);
  std::vector<StudyResult> there = swept_results();
  StudyResult r = run("moe", 0.8, 1);
  r.run.arm = "k1";
  r.run.name = "k1";
  there.push_back(r);
  const Json report = make_report(s, there, {});
  int found = 0;
  for (const Json& c : report["comparisons"]) found += c["arm"] == "k1";
  EXPECT_EQ(found, 4);  // two sets, the paper's rule and the best per budget
}

}  // namespace
}  // namespace upcycle
