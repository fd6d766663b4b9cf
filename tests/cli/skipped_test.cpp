#include <fmt/core.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// Steps that are skipped, seen from outside: the console, metrics.jsonl, the checkpoint and the exit code.
namespace upcycle {
namespace {

using nlohmann::json;

// Faults in the batches (from 0) `bad`.
std::string nan_in(const std::string& tensor, int rank, std::vector<std::int64_t> bad) {
  std::string faults = "--debug.inject=";
  for (const std::int64_t b : bad) faults += fmt::format("gradient {} {} {} {} nan;", tensor, rank, 4 * b, 4 * b);
  return faults;
}

Outcome train(int ranks, std::vector<std::string> words) {
  words.insert(words.begin(), "train");
  return ranks == 1 ? run_upcycle(words) : run_ranks(ranks, words);
}

std::vector<json> skipped_lines(const std::string& run) {
  std::ifstream in(run + "/metrics.jsonl");
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);)
    if (const json j = json::parse(line, nullptr, false); j.contains("skipped")) lines.push_back(j);
  return lines;
}

json manifest_of(const std::string& run, const std::string& step) {
  return json::parse(std::ifstream(run + "/" + step + "/manifest.json"), nullptr, false);
}

// Of ranks that all hold some of it; four: tp 2, dp 2, ep 2.
void as_if_the_data_skipped_it(int ranks) {
  SmallRun small;
  small.config["model"].merge_patch({{"num_local_experts", 4}, {"moe_intermediate_size", 16}});
  if (ranks == 4) small.config["parallel"] = {{"tp", 2}, {"ep", 2}};
  small.config["train"]["micro_batch_size"] = 1;
  // Three updates, then on from what follows the fourth batch; the schedule is that of the six.
  const std::string without = small.write_config("without", {{"train", {{"schedule", "constant"}}}});
  ASSERT_EQ(train(ranks, {without, "--train.steps=3"}).exit_code, 0);
  ASSERT_EQ(train(ranks, {without, "--train.skip_samples=4"}).exit_code, 0);
  const std::string config = small.write_config("run", {{"train", {{"schedule", "constant"}}}});
  const Outcome o = train(ranks, {config, "--checkpoint.every=2", "--train.tensorboard_dir=" + small.file("tb"),
                                  nan_in("model.layers.1.block_sparse_moe.gate.weight", ranks - 1, {3})});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(checkpoint_hashes(small.file("run")), checkpoint_hashes(small.file("without")));
  for (const std::string& part :
       {std::string("step 4: loss "),
        fmt::format("model.layers.1.block_sparse_moe.gate.weight is the first that is not finite, on rank {} on ",
                    ranks - 1),
        std::string("sequences 12 to 15 are passed over (1 in a row, 1 in all)")})
    EXPECT_NE(o.err.find(part), o.err.npos) << part << " in " << o.err;
  const std::string once = "the step is skipped";  // whatever the number of ranks
  EXPECT_EQ(o.err.find(once), o.err.rfind(once)) << o.err;
  const std::vector<json> skipped = skipped_lines(small.file("run"));
  ASSERT_EQ(skipped.size(), 1u);
  EXPECT_EQ(skipped[0]["step"], 4);
  EXPECT_EQ(skipped[0]["skipped"], "not finite");
  EXPECT_EQ(skipped[0]["first_sample"], 12);
  EXPECT_TRUE(skipped[0]["skipped_grad_norm"].is_null());
  EXPECT_EQ(skipped[0]["tokens"], 3 * 4 * 32);
  std::vector<std::int64_t> steps;
  for (const json& line : step_lines(small.file("run"))) steps.push_back(line["step"]);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(manifest_of(small.file("run"), "step_00000002")["consumed_samples"], 8);
  EXPECT_EQ(manifest_of(small.file("run"), "step_00000004")["consumed_samples"], 20);
  EXPECT_EQ(json_of({"inspect", small.file("run"), "--json"})["skipped_steps"], 1);
}
TEST(Skipped, AsIfTheDataDidNotHaveIt) { as_if_the_data_skipped_it(1); }
TEST(FourRanks, ASkippedStepIsAsIfTheDataDidNotHaveIt) { as_if_the_data_skipped_it(4); }

// Three in a row: the last good state, with the data position after them; the same command, the fault gone, goes on
// there.
void stops_after_three(int ranks) {
  const SmallRun small;
  const std::string without = small.write_config("without", {{"train", {{"schedule", "constant"}}}}),
                    config = small.write_config("run", {{"train", {{"schedule", "constant"}}}});
  ASSERT_EQ(train(ranks, {without, "--train.steps=2"}).exit_code, 0);
  ASSERT_EQ(train(ranks, {without, "--train.skip_samples=12"}).exit_code, 0);
  const Outcome o = train(ranks, {config, nan_in("model.embed_tokens.weight", ranks - 1, {2, 3, 4, 5})});
  EXPECT_EQ(o.exit_code, 2) << o.err;
  const std::string run = small.file("run");
  const std::string last = o.err.substr(o.err.rfind("upcycle: step 3: loss "));
  for (const std::string& part :
       {fmt::format("the gradient of model.embed_tokens.weight is the first that is not finite, on rank {} on ",
                    ranks - 1),
        std::string("training has diverged: 3 steps in a row were skipped (train.max_skipped_steps)"),
        "is saved in " + run + "/step_00000002"})
    EXPECT_NE(last.find(part), last.npos) << part << " in " << last;
  EXPECT_EQ(manifest_of(run, "step_00000002")["consumed_samples"], 20);
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  EXPECT_EQ(skipped_lines(run).size(), 3u);
  ASSERT_EQ(train(ranks, {config}).exit_code, 0);
  EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(small.file("without")));
}

// A step that was saved before them stays as it is; where the data go on is written beside it.
void after_a_save(int ranks) {
  const SmallRun small;
  const std::string without = small.write_config("without", {{"train", {{"schedule", "constant"}}}}),
                    config = small.write_config(
                        "run", {{"train", {{"schedule", "constant"}}}, {"checkpoint", {{"every", 1}}}}),
                    run = small.file("run");
  ASSERT_EQ(train(ranks, {without, "--train.steps=2"}).exit_code, 0);
  ASSERT_EQ(train(ranks, {without, "--train.skip_samples=12"}).exit_code, 0);
  EXPECT_EQ(train(ranks, {config, nan_in("model.norm.weight", 0, {2, 3, 4})}).exit_code, 2);
  EXPECT_EQ(manifest_of(run, "step_00000002")["consumed_samples"], 8);
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  const Outcome o = train(ranks, {config});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("the data go on after sequence 20, behind 3 steps that were skipped after step 2"), o.err.npos)
      << o.err;
  EXPECT_EQ(manifest_of(run, "step_00000006")["consumed_samples"], 36);
  EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(small.file("without")));
}
TEST(Skipped, AfterASaveTheDataMoveOnToo) { after_a_save(1); }
TEST(TwoRanks, AfterASaveSkippedDataStayPassedOver) { after_a_save(2); }

TEST(Skipped, ThreeInARowEndTheRun) { stops_after_three(1); }
TEST(TwoRanks, ThreeSkippedStepsEndTheRun) { stops_after_three(2); }

// The losses that the next are judged by, and the steps in a row, go through the checkpoint: a run in pieces, saved
// between two skipped steps too, is the run in one.
TEST(Skipped, TheirStateResumes) {
  const SmallRun small;
  const json judged = {{"train", {{"steps", 8}, {"max_loss_z_score", 100}, {"loss_window", 4}}}};
  const std::string whole = small.write_config("whole", judged), pieces = small.write_config("pieces", judged);
  const std::string fault = nan_in("model.norm.weight", 0, {3, 4});
  ASSERT_EQ(train(1, {whole, fault}).exit_code, 0);
  for (int i = 0; i < 2; ++i) {  // each of the two ends it
    const Outcome o = train(1, {pieces, fault, "--train.max_skipped_steps=1"});
    EXPECT_EQ(o.exit_code, 2) << o.err;
  }
  ASSERT_EQ(train(1, {pieces, fault}).exit_code, 0);
  const json a = manifest_of(small.file("whole"), "step_00000008"),
             b = manifest_of(small.file("pieces"), "step_00000008");
  EXPECT_EQ(a["skipped"], b["skipped"]);
  EXPECT_EQ(a["skipped"]["losses"].size(), 4u);
  EXPECT_EQ(a["skipped"]["steps"], 2);
  EXPECT_EQ(a["consumed_samples"], b["consumed_samples"]);
  EXPECT_EQ(checkpoint_hashes(small.file("whole")), checkpoint_hashes(small.file("pieces")));
}

TEST(Skipped, FaultsToCauseThatAreNone) {
  const SmallRun small;
  const std::string config = small.write_config("run");
  const auto refused = [&](const std::string& faults, const std::string& part) {
    const std::string line = one_line_error(run_upcycle({"train", config, "--debug.inject=" + faults}));
    EXPECT_NE(line.find("debug.inject: found "), line.npos) << line;
    EXPECT_NE(line.find(part), line.npos) << line;
  };
  refused("gradient", "expected KIND TENSOR RANK FIRST LAST VALUE");
  refused("gradient model.norm.weight 0 0 0 nan more", "expected KIND TENSOR RANK FIRST LAST VALUE");
  refused("weight model.norm.weight 0 0 0 nan", "expected one of parameter, moment, gradient, activation");
  refused("gradient model.norm.weight 0 0 0 zero", "expected one of nan, inf, once, lasting");
  refused("gradient model.norm 0 0 0 nan", "'model.norm'");
}

}  // namespace
}  // namespace upcycle
