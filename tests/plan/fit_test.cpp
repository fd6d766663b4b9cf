#include <algorithm>
#include <nlohmann/json.hpp>

#include "parallel/plan/fit.h"
#include "tests/cli/run_program.h"
#include "tests/plan/planned_by_hand.h"

// `upcycle plan --fit` against plans of single layouts, and its cost model by hand.
namespace upcycle {
namespace {

using nlohmann::json;

TEST(StepTime, IsThatOfRingsByHand) {
  Plan p = plan_with({.world = 16, .tp = 2, .dp = 8, .ep = 4, .etp = 1, .edp = 4});
  const StepTime t = step_time(p, kRates);
  EXPECT_DOUBLE_EQ(t.products, 2.0);
  // tp and ep stay in a machine of 8; dp and the world do not.
  const double tp = 1e9 * 1 / 2e9 + 2e-3, dp = 6e9 * 7 / 8 / 1e9 + 1e-3, ep = 4e9 * 3 / 4 / 2e9 + 10e-3,
               world = 16.0 * 2 * 15 / 16 / 1e9 + 3e-3;
  EXPECT_NEAR(t.collectives, tp + dp + ep + world, 1e-12);
  EXPECT_EQ(t.offload, 0);
  p.memory_bytes = 3e12;
  p.offload.host_memory = 1e10;
  EXPECT_DOUBLE_EQ(step_time(p, kRates).products, 3.0);  // what its bytes take
  EXPECT_DOUBLE_EQ(step_time(p, kRates).offload, 2.0);
}

const std::string kTiny = UPCYCLE_ROOT "/launch/configs/tiny_moe.json";

json run_plan(std::vector<std::string> words) {
  words.insert(words.begin(), {"plan", kTiny, "--json"});
  const Outcome o = run_upcycle(words);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  return json::parse(o.out, nullptr, false);
}

std::vector<std::string> keys_of(const json& option) {
  const auto number = [&](const char* key) { return std::to_string(option[key].get<int>()); };
  return {"--parallel.tp=" + number("tp"),
          "--parallel.ep=" + number("ep"),
          "--parallel.etp=" + number("etp"),
          "--train.micro_batch_size=" + number("micro_batch_size"),
          "--train.recompute=" + option["recompute"].get<std::string>(),
          "--world=4"};
}

TEST(PlanFit, ListsWhatPlanSaysOfEachLayout) {
  const json all = run_plan({"--fit", "--world=4", "--memory=1GiB"});
  EXPECT_TRUE(all["too_large"].empty());
  ASSERT_GT(all["fits"].size(), 3u);
  double before = 0;
  for (const json& option : all["fits"]) {
    EXPECT_EQ(option["recompute"], "none");  // there is room
    EXPECT_EQ(run_plan(keys_of(option))["memory_peak"], option["memory"]) << option;
    EXPECT_GE(option["seconds"]["step"].get<double>(), before);
    before = option["seconds"]["step"].get<double>();
  }
  for (const json& refused : all["not_possible"]) EXPECT_FALSE(refused["layouts"].empty()) << refused;

  // With what the middle one takes at least: each that is listed still fits, each that is not takes more.
  const json least = run_plan({"--fit", "--world=4", "--memory=1"})["too_large"];
  ASSERT_EQ(least.size(), all["fits"].size());
  const auto memory = least[least.size() / 2]["memory"].get<std::size_t>();
  const json some = run_plan({"--fit", "--world=4", "--memory=" + std::to_string(memory)});
  EXPECT_EQ(some["fits"].size(), least.size() / 2 + 1);
  EXPECT_EQ(some["fits"].size() + some["too_large"].size(), all["fits"].size());
  for (const json& option : some["fits"]) EXPECT_LE(option["memory"].get<std::size_t>(), memory);
  for (const json& option : some["too_large"]) {
    EXPECT_GT(option["memory"].get<std::size_t>(), memory);
    EXPECT_EQ(run_plan(keys_of(option))["memory_peak"], option["memory"]) << option;
  }
}

TEST(PlanFit, WhereNothingFitsItNamesChangesThatDo) {
  const json all = run_plan({"--fit", "--world=4", "--memory=1"});
  const auto least = all["too_large"][0]["memory"].get<std::size_t>();
  const std::string memory = std::to_string(least - 1);
  const json none = run_plan({"--fit", "--world=4", "--memory=" + memory});
  EXPECT_TRUE(none["fits"].empty());
  ASSERT_FALSE(none["remedies"].empty());
  for (const json& remedy : none["remedies"]) {
    std::vector<std::string> words = keys_of(remedy["best"]);
    for (const json& key : remedy["keys"]) words.push_back("--" + key.get<std::string>());
    EXPECT_EQ(run_plan(words)["memory_peak"], remedy["best"]["memory"]) << remedy;
    EXPECT_LT(remedy["best"]["memory"].get<std::size_t>(), least);
  }
}

TEST(PlanFit, BadInputIsOneLine) {
  const auto expect = [](std::vector<std::string> words, const std::string& message) {
    words.insert(words.begin(), {"plan", kTiny});
    const Outcome o = run_upcycle(words);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    EXPECT_NE(o.err.find(message), std::string::npos) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  };
  expect({"--fit", "--world=4"}, "--fit without --memory");
  expect({"--fit", "--memory=1GiB", "--row"}, "--row with --fit");
  expect({"--fit", "--memory=1GiB", "--network=0"}, "--network: found 0");
  expect({"--fit", "--memory=1GiB", "--machine=nowhere.json"}, "nowhere.json");
  expect({"--machine=nowhere.json"}, "--machine without --fit");
  expect({"--mfu=0.5"}, "--mfu without --fit or a study");
}

}  // namespace
}  // namespace upcycle
