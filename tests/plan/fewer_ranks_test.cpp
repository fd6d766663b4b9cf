#include <algorithm>
#include <fstream>

#include "tests/cli/run_program.h"
#include "tests/cli/small_run.h"

// `upcycle plan --most-ranks`: with how many ranks a run goes on, and in which layout.
namespace upcycle {
namespace {

const std::string kTiny = UPCYCLE_ROOT "/launch/configs/tiny_moe.json";  // 16 experts, batch 32 in micro batches of 2

Outcome most_ranks(int most, std::vector<std::string> words) {
  words.insert(words.begin(), {"plan", kTiny, "--most-ranks=" + std::to_string(most)});
  return run_upcycle(words);
}

std::string layout(int most, const std::vector<std::string>& words) {
  const Outcome o = most_ranks(most, words);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  return o.out;
}

TEST(FewerRanks, ReplicasGoFirst) {
  const std::vector<std::string> batch24{"--train.global_batch_size=24", "--train.micro_batch_size=1"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), batch24.begin(), batch24.end());
    return words;
  };
  EXPECT_EQ(layout(8, with({"--parallel.ep=2"})), "8 --parallel.tp=1 --parallel.ep=2 --parallel.etp=1\n");
  EXPECT_EQ(layout(7, with({"--parallel.ep=2"})), "6 --parallel.tp=1 --parallel.ep=2 --parallel.etp=1\n");
  EXPECT_EQ(layout(7, with({"--parallel.tp=2", "--parallel.ep=2", "--parallel.etp=2"})),
            "4 --parallel.tp=2 --parallel.ep=2 --parallel.etp=2\n");
  // A batch that fewer replicas can not share.
  EXPECT_EQ(layout(7, {}), "4 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  EXPECT_EQ(layout(7, {"--train.rampup_batch_size=[8,8,64]", "--train.tokens=100000", "--train.steps=0",
                       "--train.micro_batch_size=1"}),
            "4 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
}

// Experts and matrices are cut otherwise only where that leaves too few ranks to work.
TEST(FewerRanks, OtherwiseTheLayoutChanges) {
  EXPECT_EQ(layout(7, {"--parallel.ep=8"}), "4 --parallel.tp=1 --parallel.ep=4 --parallel.etp=1\n");
  EXPECT_EQ(layout(3, {"--parallel.tp=2", "--parallel.ep=4"}), "2 --parallel.tp=2 --parallel.ep=2 --parallel.etp=1\n");
  EXPECT_EQ(layout(3, {"--parallel.ep=4", "--train.global_batch_size=24"}),
            "3 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  EXPECT_EQ(layout(1, {"--parallel.tp=2", "--parallel.ep=2", "--parallel.etp=2"}),
            "1 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  // Cut gradients need replicas.
  EXPECT_EQ(layout(2, {"--parallel.tp=4", "--parallel.ep=4", "--train.zero_stage=2"}),
            "2 --parallel.tp=1 --parallel.ep=2 --parallel.etp=1\n");
}

// What the layout takes is what plan says of it: one byte less, and it is another one or none.
TEST(FewerRanks, FitsTheMemory) {
  const auto peak = [](const std::string& world, const std::string& ep) {
    const Outcome o = run_upcycle({"plan", kTiny, "--json", "--world=" + world, "--parallel.ep=" + ep});
    const std::size_t at = o.out.find("\"memory_peak\":");
    EXPECT_NE(at, std::string::npos) << o.err;
    return std::stoull(o.out.substr(at + 14));
  };
  const auto memory = [](std::size_t bytes) { return "--memory=" + std::to_string(bytes); };
  const std::size_t four = peak("4", "1");
  EXPECT_EQ(layout(7, {memory(four)}), "4 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  EXPECT_NE(layout(7, {memory(four - 1)}), "4 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  const Outcome none = most_ranks(1, {memory(peak("1", "1") - 1)});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_EQ(none.out, "");
  EXPECT_NE(none.err.find("--most-ranks: found 1, expected enough for a layout that --memory holds"), std::string::npos)
      << none.err;
  EXPECT_EQ(std::count(none.err.begin(), none.err.end(), '\n'), 1) << none.err;
}

// Training would set the damaged step aside and go on from the one before: so far plan knows the model.
TEST(FewerRanks, OfARunWhoseNewestStepIsDamaged) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 4}}}, {"checkpoint", {{"every", 2}}}});
  const std::vector<std::string> words{"plan", small.file("run.json"), "--most-ranks=1"};
  EXPECT_EQ(run_upcycle(words).out, "1 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n");
  std::ofstream(run + "/step_00000004/manifest.json", std::ios::app) << " ";
  const Outcome o = run_upcycle(words);
  EXPECT_EQ(o.out, "1 --parallel.tp=1 --parallel.ep=1 --parallel.etp=1\n") << o.err;
  std::ofstream(run + "/step_00000002/manifest.json", std::ios::app) << " ";
  EXPECT_NE(one_line_error(run_upcycle(words)).find("step_00000004/manifest.json"), std::string::npos);
}

TEST(FewerRanks, BadInputIsOneLine) {
  const auto expect = [](int most, const std::vector<std::string>& words, const std::string& message) {
    const Outcome o = most_ranks(most, words);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    EXPECT_NE(o.err.find(message), std::string::npos) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  };
  expect(0, {}, "--most-ranks: found 0, expected 1 to 16777216");
  expect(4, {"--world=4"}, "--world with --most-ranks");
  expect(4, {"--json"}, "--json with --most-ranks");
  expect(4, {"--serve"}, "--most-ranks with --serve");
  expect(1, {"--train.zero_stage=2"}, "--most-ranks: found 1, expected enough for a layout of this model");
}

}  // namespace
}  // namespace upcycle
