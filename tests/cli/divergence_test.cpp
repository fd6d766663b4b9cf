#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string newest(const std::string& run) {
  std::string name;
  std::getline(std::ifstream(run + "/latest"), name);
  return name;
}

std::int64_t consumed(const std::string& step) {
  return json::parse(std::ifstream(step + "/manifest.json"), nullptr, false)["consumed_samples"];
}

// Our lines that say how it ended.
std::vector<std::string> endings(const Outcome& o) {
  std::vector<std::string> lines;
  std::istringstream in(o.err);
  for (std::string line; std::getline(in, line);)
    if (line.find("training has diverged") != line.npos) lines.push_back(line);
  return lines;
}

// Three good steps, then a learning rate with which the fourth ruins the weights, so that none after it has a finite
// loss.
void state_before_it_is_saved(int ranks) {
  const SmallRun small;
  const json kept = {{"train", {{"steps", 3}}}, {"checkpoint", {{"keep", 1}}}};
  const std::string run = small.train("run", kept, ranks);
  const auto train = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"train", small.file("run.json"), "--train.steps=8"};
    words.insert(words.end(), more.begin(), more.end());
    return ranks == 1 ? run_upcycle(words) : run_ranks(ranks, words);
  };
  const Outcome o = train({"--train.lr=1e15"});
  EXPECT_EQ(o.exit_code, 2) << o.err;
  EXPECT_EQ(consumed(run + "/step_00000004"), 4 * 4 + 3 * 4);  // three steps were skipped
  const std::vector<std::string> said = endings(o);
  ASSERT_EQ(said.size(), 1u) << o.err;
  for (const std::string& part :
       {std::string("upcycle: step 5: loss "), run + "/step_00000004", std::string("train.lr")})
    EXPECT_NE(said[0].find(part), said[0].npos) << part << " in " << said[0];
  EXPECT_EQ(newest(run), "step_00000004");
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  // The good state of step 3 is kept, whatever checkpoint.keep says: that of step 4 is finite, but already ruined.
  EXPECT_TRUE(fs::exists(run + "/step_00000003/manifest.json"));
  // Started again, as a scheduler does, it ends the same way, and changes nothing of a step that is there.
  const auto before = checkpoint_hashes(run);
  const Outcome again = train({"--train.lr=1e15"});
  EXPECT_EQ(again.exit_code, 2) << again.err;
  ASSERT_EQ(endings(again).size(), 1u) << again.err;
  EXPECT_EQ(checkpoint_hashes(run), before);
  EXPECT_EQ(consumed(run + "/step_00000004"), 4 * 4 + 3 * 4);
  EXPECT_TRUE(fs::exists(run + "/step_00000003/manifest.json"));
  // The remedy that the line names.
  write_bytes(run + "/latest", "step_00000003\n");
  const Outcome good = train({});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_EQ(newest(run), "step_00000008");
}

TEST(Divergence, TheStateBeforeItIsSaved) { state_before_it_is_saved(1); }
TEST(TwoRanks, TheStateBeforeADivergenceIsSaved) { state_before_it_is_saved(2); }

// A save that is still being written when the next step diverges is published, not dropped.
TEST(Divergence, ASaveUnderWayIsPublished) {
  const SmallRun small;
  const std::string config = small.write_config("run", {{"train", {{"lr", 1e15}}}, {"checkpoint", {{"every", 1}}}});
  const Outcome o = run_upcycle({"train", config});
  EXPECT_EQ(o.exit_code, 2) << o.err;
  EXPECT_EQ(endings(o).size(), 1u) << o.err;
  EXPECT_EQ(newest(small.file("run")), "step_00000001");
  EXPECT_EQ(run_upcycle({"inspect", small.file("run"), "--verify"}).exit_code, 0);
}

TEST(Divergence, WithoutAFolderNothingIsSaidToBeKept) {
  const SmallRun small;
  const std::string config = small.write_config("none", {{"train", {{"lr", 1e15}}}});
  const Outcome o = run_upcycle({"train", config, "--checkpoint.dir="});
  EXPECT_EQ(o.exit_code, 2) << o.err;
  const std::vector<std::string> said = endings(o);
  ASSERT_EQ(said.size(), 1u) << o.err;
  EXPECT_NE(said[0].find("checkpoint.dir is empty: nothing is kept"), said[0].npos) << said[0];
  EXPECT_EQ(said[0].find("saved"), said[0].npos) << said[0];
}

}  // namespace
}  // namespace upcycle
