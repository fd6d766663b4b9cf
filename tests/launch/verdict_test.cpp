#include "launch/study/verdict.h"

#include <gtest/gtest.h>

#include "tests/launch/small_study.h"

namespace upcycle {
namespace {

// The parts of a report that a verdict is made from.
struct Parts {
  Study study = small_study::study();
  Json report = {{"comparisons", Json::array()},
                 {"sweeps", Json::array()},
                 {"serving", Json::array()},
                 {"break_even", Json::array()},
                 {"runs", Json::array()}};

  Parts& compared(double budget, double difference, const std::string& says, int seeds = 2,
                  const std::string& rates = "paper") {
    report["comparisons"].push_back({{"size", "1M"},
                                     {"duration", 20},
                                     {"budget", budget},
                                     {"arm", "moe"},
                                     {"set", "new"},
                                     {"rates", rates},
                                     {"difference", difference},
                                     {"low", difference - 0.01},
                                     {"high", difference + 0.01},
                                     {"seeds", seeds},
                                     {"spread_known", seeds > 1},
                                     {"relative_gain", -difference / 2.5},
                                     {"says", says}});
    return *this;
  }
  Parts& served(const std::string& source = "measured") {
    report["serving"].push_back(
        {{"size", "1M"}, {"arm", "moe"}, {"share_of_dense", 0.43}, {"source", source}, {"machine", "an H100"}});
    return *this;
  }
  Parts& pays(const std::string& clause, double budget = 0.8, const std::string& answer = "after some") {
    report["break_even"].push_back({{"size", "1M"},
                                    {"duration", 20},
                                    {"budget", budget},
                                    {"arm", "moe"},
                                    {"set", "new"},
                                    {"answer", answer},
                                    {"pays", clause}});
    return *this;
  }
  Parts& swept(const std::string& arm, double best, bool interior) {
    report["sweeps"].push_back({{"arm", arm}, {"size", "1M"}, {"best", best}, {"interior", interior}});
    return *this;
  }
  Parts& broken(const std::string& name, const std::string& status) {
    report["runs"].push_back({{"name", name},
                              {"kind", "arm"},
                              {"result", true},
                              {"arm", "moe"},
                              {"size", "1M"},
                              {"duration", 20},
                              {"status", status}});
    return *this;
  }
  std::string text() const { return verdict(study, report); }
};

const std::string kBegin = "1M, pretrained on 20 tokens per parameter, held-out text \"new\": ";
const std::string kNoServing = " What it costs to serve is not known, so neither is when it pays.";

TEST(Verdict, SaysWhichIsBetterAtWhichBudgetAndWhatServingCosts) {
  EXPECT_EQ(Parts()
                .compared(0.2, 0.012, "worse")
                .compared(0.8, -0.05, "better")
                .compared(0.4, -0.025, "better")
                .served()
                .pays("so it pays if fewer than 3.1e9 tokens are served")
                .text(),
            kBegin +
                "at 0.2 of the pretraining budget cpt is better by 0.012 nats (0.5 %); from 0.4 of the pretraining "
                "budget on moe is better, by 0.025 nats (1.0 %) at 0.4 and 0.050 nats (2.0 %) at 0.8. Serving moe "
                "reaches 0.43 of the dense model's rate at high demand (measured here), so it pays if fewer than 3.1e9 "
                "tokens are served "
                "(trained with 0.8 of the pretraining budget).");
}

TEST(Verdict, SaysWhenOneIsBetterEverywhere) {
  EXPECT_EQ(Parts().compared(0.2, -0.02, "better").compared(0.4, -0.03, "better").compared(0.8, -0.05, "better").text(),
            kBegin +
                "moe is better than cpt at every budget, by 0.020 nats (0.8 %) at 0.2 of the pretraining budget and "
                "0.050 nats (2.0 %) at 0.8." +
                kNoServing);
  EXPECT_EQ(Parts().compared(0.2, 0.02, "worse").compared(0.4, 0.03, "worse").compared(0.8, 0.05, "worse").text(),
            kBegin +
                "cpt is better than moe at every budget, by 0.020 nats (0.8 %) at 0.2 of the pretraining budget and "
                "0.050 nats (2.0 %) at 0.8." +
                kNoServing);
}

TEST(Verdict, SaysNoDifference) {
  const std::string all = Parts()
                              .compared(0.2, 0.001, "no difference")
                              .compared(0.4, -0.004, "no difference")
                              .compared(0.8, -0.002, "no difference")
                              .text();
  EXPECT_EQ(all, kBegin +
                     "at no budget from 0.2 to 0.8 of the pretraining budget do moe and cpt differ by more than two "
                     "standard errors (0.002 nats at 0.8)." +
                     kNoServing);
  const std::string first = Parts()
                                .compared(0.2, 0.001, "no difference")
                                .compared(0.4, -0.004, "no difference")
                                .compared(0.8, -0.05, "better")
                                .text();
  EXPECT_EQ(first, kBegin +
                       "from 0.2 to 0.4 of the pretraining budget the two do not differ by more than two standard "
                       "errors (at most 0.004 nats); at 0.8 of the pretraining budget moe is better by 0.050 nats "
                       "(2.0 %)." +
                       kNoServing);
}

TEST(Verdict, SaysPlainlyWhereItDoesNotGoOneWay) {
  const std::string text =
      Parts().compared(0.2, -0.03, "better").compared(0.4, 0.02, "worse").compared(0.8, -0.05, "better").text();
  EXPECT_EQ(text,
            kBegin +
                "at 0.2 of the pretraining budget moe is better by 0.030 nats (1.2 %); at 0.4 of the pretraining "
                "budget cpt is better by 0.020 nats (0.8 %); at 0.8 of the pretraining budget moe is better by "
                "0.050 nats (2.0 %). This does not go one way with the budget: moe is better at 0.2, but worse at "
                "the larger 0.4." +
                kNoServing);
  const std::string lost = Parts().compared(0.2, -0.03, "better").compared(0.4, -0.001, "no difference").text();
  EXPECT_NE(lost.find("moe is better at 0.2, but not different at the larger 0.4."), std::string::npos) << lost;
}

TEST(Verdict, OfOneBudgetOrTokensReadsWell) {
  Parts one;
  one.study.budgets = {0.8};
  EXPECT_EQ(
      one.compared(0.8, -0.05, "better").served("predicted").pays("and it never pays").text(),
      kBegin +
          "at 0.8 of the pretraining budget moe is better by 0.050 nats (2.0 %). Serving moe reaches 0.43 of the dense "
          "model's rate at high demand (predicted for an H100), and it never pays.");
  Parts tokens;
  tokens.study.budgets = {2.5e6};
  tokens.study.budgets_in_tokens = true;
  tokens.study.verdict.duration = 0;
  tokens.compared(2.5e6, 0.001, "no difference");
  tokens.report["comparisons"][0]["duration"] = 0;
  EXPECT_EQ(
      tokens.text(),
      "1M, held-out text \"new\": at 2.5e6 tokens of continued pretraining the two do not differ by more than two "
      "standard errors (0.001 nats)." +
          kNoServing);
}

TEST(Verdict, SaysWhatIsMissing) {
  EXPECT_EQ(Parts().broken("a", "failed").broken("b", "missing").text(),
            kBegin +
                "nothing can be said: no budget has a finished pair of runs of cpt and moe. Failed: a. Not done "
                "yet: 1 run.");
  Parts parts;
  parts.compared(0.2, 0.012, "worse").compared(0.4, -0.05, "better").served();
  EXPECT_NE(parts.text().find("(measured here); when it pays is not known, because its runs are missing. Not compared: "
                              "budget 0.8."),
            std::string::npos)
      << parts.text();
  for (const char* name : {"a", "b", "c", "d"}) parts.broken(name, "failed");
  EXPECT_NE(parts.text().find("Failed: a, b and 2 more."), std::string::npos) << parts.text();
  // A difference that is not known (one document, a loss that is no number) is no difference that was compared.
  Parts unknown;
  unknown.compared(0.8, -0.05, "not known");
  EXPECT_NE(unknown.text().find("nothing can be said"), std::string::npos);
}

TEST(Verdict, WhereTheLargestBudgetCanNotTellWhenItPaysASmallerOneDoes) {
  Parts parts;
  parts.compared(0.4, -0.02, "better").compared(0.8, -0.05, "better").served();
  parts.pays("and that is not known", 0.8, "not known: no run reaches it");
  EXPECT_NE(parts.text().find("(measured here), and that is not known (trained with 0.8 of the pretraining budget)."),
            std::string::npos)
      << parts.text();
  parts.pays("so it pays if", 0.2).pays("so it pays", 0.4);
  EXPECT_NE(
      parts.text().find("(measured here), so it pays (trained with 0.4 of the pretraining budget); at 0.8 that is "
                        "not known: no run reaches it."),
      std::string::npos)
      << parts.text();
  Parts without;
  without.compared(0.4, -0.02, "better").served().pays("so it pays", 0.4);
  EXPECT_NE(without.text().find("so it pays (trained with 0.4 of the pretraining budget); at 0.8 its run is missing."),
            std::string::npos)
      << without.text();
}

TEST(Verdict, SaysHowFewSeedsThereAre) {
  const std::string one = Parts().compared(0.8, -0.05, "better", 1).text();
  EXPECT_NE(one.find(" One seed: the spread is not known."), std::string::npos) << one;
  const std::string there = Parts().compared(0.4, -0.05, "better", 2).compared(0.8, -0.05, "better", 1).text();
  EXPECT_NE(there.find(" One seed at 0.8 of the pretraining budget: its spread is taken from the other budgets."),
            std::string::npos)
      << there;
  const std::string wide = Parts().compared(0.8, -0.008, "better", 2).text();
  EXPECT_NE(wide.find(" The 95 % interval at 0.8, which allows for few seeds, still holds 0."), std::string::npos)
      << wide;
}

TEST(Verdict, SaysWhenARateIsNotKnownToBeBest) {
  Parts parts;
  parts.compared(0.8, -0.05, "better").swept("cpt", 1e-3, true).swept("moe", 2e-3, false).swept("other", 1e-3, false);
  EXPECT_NE(parts.text().find(" The learning rate of moe (0.002) is not known to be best: it lies at an end of its "
                              "sweep."),
            std::string::npos)
      << parts.text();
}

TEST(Verdict, SaysWhatOtherRatesWouldGive) {
  const std::string other =
      Parts().compared(0.8, -0.05, "better").compared(0.8, 0.03, "worse", 2, "best per budget").text();
  EXPECT_NE(other.find(" With the rates that are best at 0.8 of the pretraining budget itself, cpt is better there by "
                       "0.030 nats (1.2 %)."),
            std::string::npos)
      << other;
  const std::string none =
      Parts().compared(0.8, -0.05, "better").compared(0.8, 0.001, "no difference", 2, "best per budget").text();
  EXPECT_NE(none.find("itself, the two do not differ by more than two standard errors (0.001 nats)."),
            std::string::npos)
      << none;
  const std::string same =
      Parts().compared(0.8, -0.05, "better").compared(0.8, -0.05, "better", 2, "best per budget").text();
  EXPECT_EQ(same.find("itself"), std::string::npos) << same;
}

}  // namespace
}  // namespace upcycle
