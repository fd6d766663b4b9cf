#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "core/error.h"
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
