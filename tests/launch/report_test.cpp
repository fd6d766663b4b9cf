#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/error.h"
#include "launch/run_curves.h"
#include "launch/study/report_runs.h"
#include "launch/study/run_metrics.h"
#include "parallel/serve/machine.h"
#include "tests/launch/small_study.h"

namespace upcycle {
namespace {

using namespace small_study;

TEST(Report, ComparesArmsAtEachBudgetAsByHand) {
  const Json report = make_report(study(), results(), serving());
  ASSERT_EQ(report["comparisons"].size(), 6u);  // 3 budgets, 2 sets
  for (const auto& [budget, difference, says] :
       {std::tuple{0.2, 0.02, "worse"}, {0.4, 0.0, "no difference"}, {0.8, -0.05, "better"}}) {
    const Json c = comparison_at(report, budget, "new");
    EXPECT_NEAR(c["difference"].get<double>(), difference, 0.0011) << budget;
    EXPECT_NEAR(c["baseline_loss"].get<double>(), loss_of("cpt", budget, "new") + 0.25 / 3, 1e-9);
    EXPECT_NEAR(c["loss"].get<double>(), c["baseline_loss"].get<double>() + c["difference"].get<double>(), 1e-12);
    EXPECT_NEAR(c["relative_gain"].get<double>(), -c["difference"].get<double>() / c["baseline_loss"].get<double>(),
                1e-12);
    EXPECT_EQ(c["says"], says) << budget;
    EXPECT_EQ(c["seeds"], 2);
    EXPECT_EQ(c["per_seed"].size(), 2u);
    EXPECT_GT(c["standard_error"], 0.0005);
    EXPECT_LT(c["standard_error"], 0.0015);
    EXPECT_TRUE(c["cloze"].is_null());
  }
}

// The keys of objects at all depths, but for names of sets and config keys.
void collect_keys(const Json& j, std::set<std::string>& keys) {
  if (j.is_array())
    for (const Json& inner : j) collect_keys(inner, keys);
  if (!j.is_object()) return;
  for (const auto& [key, value] : j.items()) {
    if (key == "old" || key == "new" || key.find('.') != std::string::npos || key == "paper") continue;
    keys.insert(key);
    if (key != "load" && key != "experts" && key != "curve" && key != "equal_total") collect_keys(value, keys);
  }
}

TEST(Report, TheReadmeNamesItsKeys) {
  std::set<std::string> keys;
  collect_keys(make_report(study(), results(), serving()), keys);
  EXPECT_TRUE(keys.contains("spread_known") && keys.contains("moe_seconds"));
  std::ifstream in(UPCYCLE_ROOT "/launch/README.md");
  const std::string readme(std::istreambuf_iterator<char>(in), {});
  for (const std::string& key : keys)
    EXPECT_TRUE(readme.find("`" + key + "`") != std::string::npos ||
                readme.find("`" + key + "[]`") != std::string::npos)
        << key;
}

TEST(Report, DoesNotDependOnTheOrderOfWhatComesIn) {
  std::vector<StudyResult> there = results();
  std::vector<ServingResult> served = serving();
  const std::string report = make_report(study(), there, served).dump();
  std::reverse(there.begin(), there.end());
  std::reverse(served.begin(), served.end());
  EXPECT_EQ(make_report(study(), there, served).dump(), report);
  std::swap(there[1], there[7]);
  EXPECT_EQ(make_report(study(), there, served).dump(), report);
}

TEST(Report, HasEachRunWithItsNumbers) {
  const Json report = make_report(study(), results(), serving());
  ASSERT_EQ(report["runs"].size(), 12u);
  const Json& r = report["runs"][2];
  EXPECT_EQ(r["name"], "1M-d20-b0.2-moe-s1");
  EXPECT_NEAR(r["loss"]["new"].get<double>(), 3.02 - 0.005 + 0.25 / 3 + 0.002 / 3, 1e-9);
  EXPECT_NEAR(r["bits_per_byte"]["new"].get<double>(), r["loss"]["new"].get<double>() / 4 / std::log(2), 1e-9);
  EXPECT_EQ(r["differences"].dump(), R"({"model.num_local_experts":8})");
  EXPECT_EQ(report["runs"][0]["differences"].dump(), "{}");
  EXPECT_EQ(r["device_seconds"], 200);
  EXPECT_TRUE(r["epochs"].is_null() && r["load"].is_null() && r["experts"].is_null());
  EXPECT_EQ(r["curve"].dump(), R"({"tokens":[],"loss":[]})");
  EXPECT_EQ(report["study"]["verdict_cell"].dump(), R"({"size":"1M","duration":20.0,"budget":0.8})");
}

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

TEST(Report, BrokenAndMissingRunsAreSaidAndTheOthersCompared) {
  std::vector<StudyResult> there = results();
  there[3].status = "failed";  // moe at 0.2, seed 2
  there[3].error = "the loss of step 7 is not finite";
  there[3].measures = {};
  for (const int missing : {8, 9}) {  // cpt at 0.8
    there[missing].status = "missing";
    there[missing].measures = {};
  }
  const Json report = make_report(study(), there, {});
  EXPECT_EQ(comparison_at(report, 0.2, "new")["seeds"], 1);
  EXPECT_TRUE(comparison_at(report, 0.8, "new").is_null());
  EXPECT_EQ(report["runs"][3]["status"], "failed");
  EXPECT_TRUE(report["runs"][3]["loss"]["new"].is_null() && report["runs"][3]["wall_seconds"].is_null());
  const std::string notes = report["study"]["notes"].dump();
  EXPECT_NE(notes.find("1M-d20-b0.2-moe-s2 failed: the loss of step 7 is not finite"), std::string::npos);
  EXPECT_NE(notes.find("2 runs are not done"), std::string::npos);
  const std::string verdict = report["verdict"];
  EXPECT_NE(verdict.find("Not compared: budget 0.8. Failed: 1M-d20-b0.2-moe-s2. Not done yet: 2 runs."),
            std::string::npos)
      << verdict;
  for (const StudyResult& r : {there[3], there[8]}) EXPECT_EQ(make_report(study(), {r}, {})["comparisons"].size(), 0u);
  EXPECT_EQ(make_report(study(), {}, {})["runs"].size(), 0u);
}

TEST(Report, AnErrorMayHoldAnyBytes) {
  std::vector<StudyResult> there = results();
  there[0].status = "failed";
  there[0].error = "found '\xff\xfe'";
  const Json report = make_report(study(), there, {});
  EXPECT_EQ(report["runs"][0]["error"], "found '\xEF\xBF\xBD\xEF\xBF\xBD'");
  EXPECT_NE(report.dump().find("s1 failed: found"), std::string::npos);
}

TEST(Report, OtherTextIsRefused) {
  std::vector<StudyResult> there = results();
  there[2].measures.sets[1].documents[7].tokens = 11;
  EXPECT_THROW(make_report(study(), there, {}), InputError);
  there = results();
  there[2].measures.sets[1].documents.pop_back();
  EXPECT_THROW(make_report(study(), there, {}), InputError);
}

// ---- cloze ---------------------------------------------------------------------------------------------------------

// `right` of 1000 items, spread evenly.
std::vector<double> answers(int right) {
  std::vector<double> all;
  for (int i = 0; i < 1000; ++i) all.push_back((i + 1) * right / 1000 > i * right / 1000 ? 1 : 0);
  return all;
}
Json cloze_of(int cpt, int moe) {
  std::vector<StudyResult> there = results();
  for (StudyResult& r : there)
    for (SetMeasures& set : r.measures.sets) {
      set.candidates = 4;
      set.cloze = answers(r.run.arm == "cpt" ? cpt : moe);
    }
  return make_report(study(), there, {});
}

TEST(Report, ClozeTakesChanceOff) {
  const Json report = cloze_of(400, 460);
  const Json run = report["runs"][0]["cloze"]["new"], c = comparison_at(report, 0.8, "new")["cloze"];
  EXPECT_EQ(run["accuracy"], 0.4);
  EXPECT_NEAR(run["corrected"].get<double>(), 0.2, 1e-12);
  EXPECT_NEAR(run["standard_error"].get<double>(), std::sqrt(0.4 * 0.6 / 999) / 0.75, 1e-9);
  EXPECT_EQ(run["items"], 1000);
  EXPECT_NEAR(c["difference"].get<double>(), 0.08, 1e-9);
  EXPECT_NEAR(c["relative_gain"].get<double>(), 0.4, 1e-9);
  EXPECT_GT(c["standard_error"], 0.005);
}

TEST(Report, ClozeItemsOfADocumentAreDrawnTogether) {
  std::vector<StudyResult> there = results();
  for (StudyResult& r : there)
    for (SetMeasures& set : r.measures.sets) {
      set.candidates = 4;
      for (int i = 0; i < 1000; ++i) {
        const int document = i / 10 % 12;
        set.cloze_documents.push_back(document);
        // All items of a document are answered alike; the first half says the contrary.
        set.cloze.push_back(r.run.arm == "cpt" ? document < 9 : document < 6 || document > 6 ? 1 : 0);
      }
    }
  const Json report = make_report(study(), there, {}), c = comparison_at(report, 0.8, "new")["cloze"];
  EXPECT_EQ(report["runs"][0]["cloze"]["new"]["items"], 480);
  EXPECT_NEAR(report["runs"][0]["cloze"]["new"]["accuracy"].get<double>(), 0.5, 0.02);
  EXPECT_NEAR(report["runs"][0]["cloze"]["new"]["standard_error"].get<double>(), 0.5 / std::sqrt(5.0) / 0.75, 0.02);
  EXPECT_NEAR(c["difference"].get<double>(), 2.0 / 6 / 0.75, 0.02);
  EXPECT_GT(c["standard_error"], 0.3);
  EXPECT_EQ(c["says"], "no difference");
}

TEST(Report, ARelativeClozeGainNeedsABaselineClearOfChance) {
  const Json c = comparison_at(cloze_of(270, 330), 0.8, "new")["cloze"];  // corrected 0.027 with an error of 0.019
  EXPECT_NEAR(c["difference"].get<double>(), 0.08, 1e-9);
  EXPECT_TRUE(c["relative_gain"].is_null());
  const Json same = cloze_of(400, 401), of_same = comparison_at(same, 0.8, "new")["cloze"];
  EXPECT_EQ(of_same["says"], "no difference");
  EXPECT_TRUE(of_same["relative_gain"].is_null());
  EXPECT_NE(same["verdict"].get<std::string>().find(
                "In cloze score, chance taken off, the two do not differ by more than two standard errors (0.001) at "
                "0.8. What"),
            same["verdict"].get<std::string>().npos)
      << same["verdict"];
  const std::string verdict = cloze_of(400, 460)["verdict"];
  EXPECT_NE(verdict.find("In cloze score, chance taken off, moe is better by 0.080 (40 %) at 0.8."), verdict.npos)
      << verdict;
}

// ---- sweeps --------------------------------------------------------------------------------------------------------

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

// ---- curves --------------------------------------------------------------------------------------------------------

TEST(RunMetrics, AStepThatWasTrainedAgainCountsAsItsLastLineSays) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "upcycle_report_curves";
  std::filesystem::create_directories(folder);
  std::ofstream out(folder / "metrics.jsonl");
  const auto step = [&](int number, double loss) {
    out << Json{{"step", number},
                {"tokens", 10 * number},
                {"loss", loss},
                {"moe_layers", {{{"layer", 1}, {"load_max_over_mean", 2.0 * loss}, {"router_entropy", 3.0 * loss}}}}}
               .dump()
        << "\n";
  };
  step(1, 5);
  step(2, 9);
  out << R"({"step":2,"tokens":20,"eval":"new","eval_loss":7.5,"eval_tokens":5})"
      << "\n";
  step(3, 9);
  step(2, 4);
  out << R"({"step":2,"tokens":20,"eval":"new","eval_loss":4.5,"eval_tokens":5})"
      << "\n";
  step(3, 3);
  out << R"({"step":4,"tokens":40,"loss":null})"
      << "\n"
      << R"({"step":5,"tok)";
  out.close();
  const CurvesJson c = curves_json(folder.string(), {{"old", ""}, {"new", ""}});
  EXPECT_EQ(c.curve.dump(), R"({"tokens":[10.0,20.0,30.0],"loss":[5.0,4.0,3.0]})");
  EXPECT_EQ(c.held_out.dump(), R"({"new":{"tokens":[20.0],"loss":[4.5]}})");
  EXPECT_EQ(
      c.load.dump(),
      R"({"tokens":[10.0,20.0,30.0],"layers":[1],"max_over_mean":[[10.0],[8.0],[6.0]],"entropy":[[15.0],[12.0],[9.0]]})");
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(curves_json(folder.string(), {}).load.is_null());
}

TEST(RunMetrics, LongCurvesBecomeMeansOfEqualPieces) {
  std::vector<std::vector<double>> rows;
  for (int i = 0; i < 1000; ++i) rows.push_back({static_cast<double>(i)});
  const auto thin = thinned(rows, 200);
  ASSERT_EQ(thin.size(), 200u);
  EXPECT_EQ(thin[0][0], 2);
  EXPECT_EQ(thin[199][0], 997);
  EXPECT_EQ(thinned(rows, 2000).size(), 1000u);
  EXPECT_TRUE(thinned({}, 5).empty());
}

TEST(Report, HasExpertsOfEachCheckpoint) {
  std::vector<StudyResult> there = results();
  there[2].measures.experts = Json::parse(R"([
    {"trained_tokens": 0, "layers": [0, 1], "tokens": 64, "weight_cosine": [1, 1], "pair_cosine": [1, 1],
     "output_cosine": [1, 1], "load": [[0.5, 0.5], [0.25, 0.75]], "routing_changed": null},
    {"trained_tokens": 100, "layers": [0, 1], "tokens": 64, "weight_cosine": [0.9, 0.8], "pair_cosine": [0.7, 0.6],
     "output_cosine": [0.5, 0.4], "load": [[0.5, 0.5], [0.5, 0.5]], "routing_changed": [0.1, 0.2]}])");
  const Json e = make_report(study(), there, {})["runs"][2]["experts"];
  EXPECT_EQ(e["tokens"].dump(), "[0,100]");
  EXPECT_EQ(e["layers"].dump(), "[0,1]");
  EXPECT_EQ(e["weight_cosine"].dump(), "[[1,1],[0.9,0.8]]");
  EXPECT_EQ(e["routing_changed"].dump(), "[null,[0.1,0.2]]");
  EXPECT_EQ(e["load"][0].dump(), "[[0.5,0.5],[0.25,0.75]]");
}

// ---- runs.csv ------------------------------------------------------------------------------------------------------

TEST(RunsCsv, IsOneQuotedLineForEachRun) {
  std::vector<StudyResult> there = results();
  there[0].status = "failed";
  there[0].error = "a \"b\", c\nd";
  const std::string csv = runs_csv(make_report(study(), there, {}));
  const std::string head = csv.substr(0, csv.find("\r\n"));
  EXPECT_TRUE(head.starts_with("name,kind,arm,size,duration,budget,seed,sweep,result,status,error,learning_rate,"));
  EXPECT_TRUE(head.ends_with(",folder,command,loss:old,loss:new")) << head;
  EXPECT_NE(csv.find("1M-d20-b0.2-cpt-s1,arm,cpt,1M,20.0,0.2,1,false,true,failed,\"a \"\"b\"\", c\nd\",0.001,,,"),
            std::string::npos)
      << csv;
  std::size_t lines = 0;
  for (std::size_t at = csv.find("\r\n"); at != std::string::npos; at = csv.find("\r\n", at + 2)) ++lines;
  EXPECT_EQ(lines, 13u);
}

}  // namespace
}  // namespace upcycle
