#include <fmt/core.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// A flipped bit, seen from outside: exit code 5, one line, the last good checkpoint kept and nothing after it.
namespace upcycle {
namespace {

void ends_with_five(int ranks, const std::string& fault, const std::string& named) {
  SmallRun small;
  small.config["model"].merge_patch({{"num_local_experts", 4}, {"moe_intermediate_size", 16}});
  if (ranks == 4) small.config["parallel"] = {{"tp", 2}, {"ep", 2}};
  small.config["train"].merge_patch({{"micro_batch_size", 1}, {"steps", 8}});
  const std::string config = small.write_config("run", {{"checkpoint", {{"every", 2}, {"keep", 1}}}});
  const auto train = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"train", config};
    words.insert(words.end(), more.begin(), more.end());
    return ranks == 1 ? run_upcycle(words) : run_ranks(ranks, words);
  };
  // In the sixth step, which begins with sequence 20.
  const Outcome o =
      train({"--train.check_replicas_every=1", "--train.recompute_check_every=1", "--debug.inject=" + fault});
  EXPECT_EQ(o.exit_code, 5) << o.err;
  const std::size_t at = o.err.rfind("upcycle: after step 5: ");
  ASSERT_NE(at, o.err.npos) << o.err;
  const std::string line = o.err.substr(at);
  for (const std::string& part :
       {named, fmt::format("rank {} on ", ranks - 1), std::string("nothing is saved after step_00000004")})
    EXPECT_NE(line.find(part), line.npos) << part << " in " << line;
  const std::string run = small.file("run");
  EXPECT_EQ(text_of(run + "/latest").substr(0, 13), "step_00000004");
  EXPECT_FALSE(std::filesystem::exists(run + "/step_00000006"));
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  // The same command, the fault gone, ends as a run without one.
  const Outcome again = train({});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  const std::string straight = small.train("straight", {}, ranks);
  EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(straight));
}

TEST(WrongNumber, InAGradientEndsTheRun) {
  ends_with_five(1, "gradient model.norm.weight 0 20 20 once",
                 "the gradient of model.norm.weight, computed twice, came out different");
}
TEST(TwoRanks, AWrongReplicaEndsTheRun) {
  ends_with_five(2, "parameter model.layers.1.self_attn.q_proj.weight 1 20 20 once",
                 "replicas of model.layers.1.self_attn.q_proj.weight differ within dp");
}
TEST(FourRanks, AWrongActivationEndsTheRun) {
  ends_with_five(4, "activation layers.1.mlp 3 20 20 lasting", "layers.1.mlp, computed twice, came out different");
}

// The counts of a whole batch's assignments begin anew in each of the two passes: no false alarm, and the same run.
TEST(WrongNumber, NoneUnderTheGlobalBatchsBalance) {
  SmallRun small;
  small.config["model"].merge_patch({{"num_local_experts", 4}, {"router_aux_loss_scope", "global_batch"}});
  const std::string checked = small.train("checked", {{"train", {{"recompute_check_every", 1}}}});
  EXPECT_EQ(checkpoint_hashes(checked), checkpoint_hashes(small.train("unchecked")));
}

// What would be saved is checked too, whenever that is.
TEST(TwoRanks, AWrongReplicaReachesNoCheckpoint) {
  const SmallRun small;
  const std::string config = small.write_config("run");
  ASSERT_EQ(run_ranks(2, {"train", config, "--train.steps=2"}).exit_code, 0);
  // Each tp rank updates its own norms: what differs once stays so, whatever the checks between miss.
  const Outcome o =
      run_ranks(2, {"train", config, "--parallel.tp=2", "--debug.inject=moment model.norm.weight 1 8 8 once"});
  EXPECT_EQ(o.exit_code, 5) << o.err;
  EXPECT_NE(o.err.find("after step 6: replicas of model.norm.weight"), o.err.npos) << o.err;
  EXPECT_NE(o.err.find("nothing is saved after step_00000002"), o.err.npos) << o.err;
  EXPECT_EQ(text_of(small.file("run/latest")).substr(0, 13), "step_00000002");
}

}  // namespace
}  // namespace upcycle
