#include <gtest/gtest.h>

#include <cmath>

#include "tests/launch/small_study.h"

namespace upcycle {
namespace {

using namespace small_study;

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

}  // namespace
}  // namespace upcycle
