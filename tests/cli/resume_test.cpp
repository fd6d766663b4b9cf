#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

void wait_for(const std::string& path) {
  for (int i = 0; i < 60000 && !std::filesystem::exists(path); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(std::filesystem::exists(path)) << path;
}

// Long enough to be interrupted while it runs.
const json long_run = {{"train", {{"steps", 400}}}, {"checkpoint", {{"every", 20}, {"keep", 2}}}};
const std::map<std::string, std::string> one_thread{{"OMP_NUM_THREADS", "1"}};

std::string newest(const std::string& run) {
  std::string name;
  std::getline(std::ifstream(run + "/latest"), name);
  return name;
}

TEST(Resume, AKilledRunEndsAsTheUninterruptedOne) {
  const SmallRun small;
  const std::string whole = small.write_config("whole", long_run), cut = small.write_config("cut", long_run);
  ASSERT_EQ(run_upcycle({"train", whole}, one_thread).exit_code, 0);
  Started running({UPCYCLE_BINARY, "train", cut}, one_thread);
  wait_for(small.file("cut/latest"));
  running.kill();
  ASSERT_EQ(running.finish().exit_code, 128 + 9);
  ASSERT_NE(newest(small.file("cut")), "step_00000400");
  // What a killed run may also leave: a step half written, a line half written.
  std::filesystem::create_directory(small.file("cut/step_00000390.tmp"));
  std::ofstream(small.file("cut/metrics.jsonl"), std::ios::app) << "{\"step\":3";

  const Outcome resumed = run_upcycle({"train", cut}, one_thread);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("resumed "), std::string::npos);
  EXPECT_EQ(newest(small.file("cut")), "step_00000400");
  const auto expected = checkpoint_hashes(small.file("whole"));
  EXPECT_EQ(expected.count("model.rank00000.h5") + expected.count("optimizer.rank00000.h5"), 2u);
  EXPECT_EQ(checkpoint_hashes(small.file("cut")), expected);
  EXPECT_EQ(step_lines(small.file("cut")).back()["loss"], step_lines(small.file("whole")).back()["loss"]);
  EXPECT_FALSE(std::filesystem::exists(small.file("cut/step_00000390.tmp")));
}

// Its files came from the step that it was resumed from, which is removed when the next one is saved.
TEST(Resume, WhatTravelsOutlivesTheStepThatItCameFrom) {
  const SmallRun small;
  const json keep_one = {{"every", 1}, {"keep", 1}};
  const std::string first = small.train("first", {{"train", {{"steps", 1}}}});
  ASSERT_EQ(run_upcycle({"export", first, small.file("hf")}).exit_code, 0);
  json changes = {{"init", {{"load", small.file("hf")}}}, {"train", {{"steps", 1}}}, {"checkpoint", keep_one}};
  small.train("run", changes);
  changes["train"]["steps"] = 4;
  const std::string run = small.train("run", changes);
  EXPECT_EQ(newest(run), "step_00000004");
  EXPECT_EQ(checkpoint_hashes(run).count("imported_config.json"), 1u);
}

TEST(Resume, AFolderInUseIsRefused) {
  const SmallRun small;
  const std::string config = small.write_config("run", long_run);
  Started running({UPCYCLE_BINARY, "train", config, "--train.steps=1000000"}, one_thread);
  wait_for(small.file("run/latest"));
  const std::string line = one_line_error(run_upcycle({"train", config, "--train.steps=1000000"}, one_thread));
  EXPECT_NE(line.find("in use by pid"), std::string::npos) << line;
  running.kill();
  EXPECT_EQ(running.finish().exit_code, 128 + 9) << "it ended by itself";
}

TEST(Resume, SigtermSavesAtTheNextStepAndTheSameCommandGoesOn) {
  const SmallRun small;
  const std::string config = small.write_config("run", long_run);
  Started running({UPCYCLE_BINARY, "train", config, "--train.steps=1000000", "--checkpoint.every=0"}, one_thread);
  wait_for(small.file("run/metrics.jsonl"));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  running.terminate();
  const Outcome stopped = running.finish();
  ASSERT_EQ(stopped.exit_code, 3) << stopped.err;
  const std::int64_t last = step_lines(small.file("run")).back()["step"];
  EXPECT_EQ(newest(small.file("run")), fmt::format("step_{:08}", last));
  const Outcome resumed = run_upcycle({"train", config, fmt::format("--train.steps={}", last + 1)}, one_thread);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(step_lines(small.file("run")).back()["step"], last + 1);
}

// Writes into a pipe that a program is about to read, half a minute at most.
void write_into_pipe(const std::string& path, const std::string& text) {
  int pipe = -1;
  for (int i = 0; i < 3000 && pipe < 0; ++i) {
    pipe = open(path.c_str(), O_WRONLY | O_NONBLOCK);
    if (pipe < 0) usleep(10000);
  }
  ASSERT_GE(pipe, 0) << "nobody reads " << path;
  EXPECT_EQ(write(pipe, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  close(pipe);
}

// The config comes through a pipe: the signal is there before it, and so before anything is known of the run.
TEST(Resume, ASignalBeforeTheFirstStepEndsTheRunWithNothingHalfWritten) {
  const SmallRun small;
  const std::string config = small.write_config("run"), pipe = small.file("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto stop = [&](int number) {
    Started running({UPCYCLE_BINARY, "train", pipe, "--train.steps=1000000"}, one_thread);
    ASSERT_TRUE(running.handles(number)) << number;
    running.signal(number);
    write_into_pipe(pipe, text_of(config));
    const Outcome stopped = running.finish();
    EXPECT_EQ(stopped.exit_code, 3) << stopped.err;
    EXPECT_NE(stopped.err.find("stopped by a signal before the first step"), std::string::npos) << stopped.err;
  };
  for (const int number : {SIGUSR1, SIGTERM}) {
    stop(number);
    EXPECT_FALSE(std::filesystem::exists(small.file("run")));
  }
  ASSERT_EQ(run_upcycle({"train", config, "--train.steps=2"}, one_thread).exit_code, 0);
  const auto files = files_below(small.file("run"));
  const auto hashes = checkpoint_hashes(small.file("run"));
  stop(SIGUSR1);
  EXPECT_EQ(files_below(small.file("run")), files);
  EXPECT_EQ(checkpoint_hashes(small.file("run")), hashes);
  EXPECT_EQ(run_upcycle({"train", config, "--train.steps=3"}, one_thread).exit_code, 0);
  EXPECT_EQ(newest(small.file("run")), "step_00000003");
}

// run_local.sh, asked while it starts mpirun and while mpirun starts the ranks: a signal that arrives too early for
// them is not lost, and kills none of them.
TEST(Resume, TwoRanksAreStoppedWhileTheyStart) {
  const SmallRun small;
  const std::string config = small.write_config("run");
  for (const int milliseconds : {0, 200, 600}) {
    Started running({UPCYCLE_ROOT "/launch/run_local.sh", "-n", "2", "train", config, "--train.steps=1000000"},
                    {{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}});
    ASSERT_TRUE(running.handles(SIGTERM));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    running.terminate();
    const Outcome stopped = running.finish();
    EXPECT_EQ(stopped.exit_code, 3) << milliseconds << ": " << stopped.err;
    EXPECT_NE(stopped.err.find("stopped by a signal"), std::string::npos) << stopped.err;
  }
}

// Not trained over: training goes on from the newest of them.
TEST(Resume, WithoutLatestFromTheNewestStep) {
  const SmallRun small;
  const std::string run = small.train("run");
  std::filesystem::remove(run + "/latest");
  const Outcome o = run_upcycle({"train", small.file("run.json"), "--train.steps=7"}, one_thread);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("latest: found no such file beside step_00000006"), std::string::npos) << o.err;
  EXPECT_EQ(newest(run), "step_00000007");
  EXPECT_EQ(step_lines(run).size(), 7u);
}

// The newest checkpoint was damaged: said, set aside, and the run that goes on from the one before ends as it did. Who
// names it is refused.
void resumes_before_the_damage(int ranks) {
  const SmallRun small;
  const json saves = {{"train", {{"steps", 4}}}, {"checkpoint", {{"every", 2}}}};
  const std::string run = small.train("run", saves, ranks), last = run + "/step_00000004";
  const auto whole = checkpoint_hashes(run);
  const std::string file = last + fmt::format("/optimizer.rank{:05}.h5", ranks - 1);
  std::string bytes = text_of(file);
  bytes[bytes.size() / 3] ^= 16;
  write_bytes(file, bytes);
  const std::string config = small.write_config("other"), damage = file + ": found hash";
  EXPECT_NE(one_line_error(run_upcycle({"inspect", last, "--verify"})).find(damage), std::string::npos);
  write_bytes(last + "/model.rank00000.h5", "");
  EXPECT_NE(one_line_error(run_upcycle({"train", config, "--init.load=" + run})).find("found 0 bytes"),
            std::string::npos);
  const Outcome o =
      ranks == 1 ? run_upcycle({"train", small.file("run.json")}) : run_ranks(ranks, {"train", small.file("run.json")});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  for (const char* part : {"set aside as", "step_00000002 is the newest intact step", "resumed"})
    EXPECT_NE(o.err.find(part), std::string::npos) << part << " in " << o.err;
  EXPECT_EQ(text_of(run + "/step_00000004.damaged/optimizer" + file.substr(file.rfind(".rank"))), bytes);
  EXPECT_EQ(newest(run), "step_00000004");
  EXPECT_EQ(checkpoint_hashes(run), whole);
}
TEST(Resume, BeforeADamagedCheckpoint) { resumes_before_the_damage(1); }
TEST(TwoRanks, ResumeBeforeADamagedCheckpoint) { resumes_before_the_damage(2); }

TEST(Resume, ACheckpointOfTheEarlierFormat) {
  const SmallRun small;
  const std::string run = small.file("old"), old = UPCYCLE_ROOT "/tests/checkpoint/format_1";
  std::filesystem::copy(old, run, std::filesystem::copy_options::recursive);
  json c = json::parse(text_of(run + "/step_00000002/manifest.json"))["config"];
  c["checkpoint"]["dir"] = run;
  c["data"]["train"] = small.file("train");
  const std::string config = small.folder.write("old.json", c.dump());
  const Outcome o = run_upcycle({"train", config});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("resumed " + run + "/step_00000002 at step 2"), std::string::npos) << o.err;
  EXPECT_EQ(newest(run), "step_00000004");
}

// `latest` set back by hand, as after a loss spike: said once, in one line, and trained on from there.
TEST(Resume, SetBackByHand) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 6}}}, {"checkpoint", {{"every", 2}, {"keep", 2}}}});
  ASSERT_TRUE(std::filesystem::exists(run + "/step_00000004"));
  ASSERT_TRUE(std::filesystem::exists(run + "/step_00000006"));
  const auto first = checkpoint_hashes(run);
  write_bytes(run + "/latest", "step_00000004\n");
  // Every command takes what `latest` names.
  EXPECT_EQ(json_of({"inspect", run, "--json"})["step"], 4);
  EXPECT_EQ(run_upcycle({"reshard", run, small.file("other"), "--world=2"}).exit_code, 0);
  EXPECT_EQ(json_of({"inspect", small.file("other"), "--json"})["step"], 4);
  // Another learning rate: the step that is replaced is another one.
  const Outcome o = run_upcycle({"train", small.file("run.json"), "--train.lr=0.02"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::size_t said = o.err.find("latest names step_00000004, and step_00000006 is newer");
  EXPECT_NE(said, o.err.npos) << o.err;
  EXPECT_EQ(o.err.find("is newer", said + 60), o.err.npos) << o.err;
  EXPECT_EQ(newest(run), "step_00000006");
  EXPECT_NE(checkpoint_hashes(run), first);
  EXPECT_FALSE(std::filesystem::exists(run + "/step_00000006.old"));
  EXPECT_TRUE(std::filesystem::exists(run + "/step_00000004"));
  EXPECT_EQ(step_lines(run).size(), 8u);  // steps 5 and 6 occur twice
}

// train.tokens counts the tokens that were trained on, in whatever batches; the place in the data is kept.
TEST(Resume, TokensAreCountedWhenTheBatchChanges) {
  const SmallRun small;
  // 5 steps of 4 x 32 tokens, then 2.5 steps of 8 x 32: 3 of them.
  const json tokens = {{"train", {{"steps", nullptr}, {"tokens", 640}}}, {"checkpoint", {{"every", 5}}}};
  const std::string run = small.train("run", tokens);
  EXPECT_EQ(json_of({"inspect", run, "--json"})["tokens"], 640);
  const Outcome o =
      run_upcycle({"train", small.file("run.json"), "--train.tokens=1280", "--train.global_batch_size=8"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("train.global_batch_size: 4 -> 8"), o.err.npos) << o.err;
  const json end = json_of({"inspect", run, "--json"});
  EXPECT_EQ(end["step"], 8);
  EXPECT_EQ(end["tokens"], 640 + 3 * 256);
  EXPECT_EQ(end["consumed_samples"], 5 * 4 + 3 * 8);
  const std::vector<json> lines = step_lines(run);
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines[5]["tokens"], 640 + 256);
  // Cosine falls by tokens: halfway where half are trained, and min_lr on the last step.
  EXPECT_NEAR(lines[5]["lr"].get<double>(), 0.001 + 0.009 * 0.5 * (1 + std::cos(M_PI * 2.5 / 4.5)), 1e-9);
  EXPECT_NEAR(lines[7]["lr"].get<double>(), 0.001, 1e-12);
  // And again: nothing is left to do.
  const Outcome again =
      run_upcycle({"train", small.file("run.json"), "--train.tokens=1280", "--train.global_batch_size=8"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(step_lines(run).size(), 8u);
}

// Warm-up goes on at the tokens that were trained on, not at the step.
TEST(Resume, WarmUpInTokensGoesOnWhenTheBatchChanges) {
  const SmallRun small;
  const json tokens = {{"train", {{"steps", nullptr}, {"tokens", 640}, {"warmup_tokens", 640}}},
                       {"checkpoint", {{"every", 5}}}};
  const std::string run = small.train("run", tokens);  // 5 steps of 128 tokens
  const Outcome o = run_upcycle({"train", small.file("run.json"), "--train.tokens=2560", "--train.warmup_tokens=1280",
                                 "--train.global_batch_size=8"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::vector<json> lines = step_lines(run);
  EXPECT_NEAR(lines[4]["lr"].get<double>(), 0.01, 1e-12);
  EXPECT_NEAR(lines[5]["lr"].get<double>(), 0.01 * 896 / 1280, 1e-12);
  EXPECT_NEAR(lines[6]["lr"].get<double>(), 0.01 * 1152 / 1280, 1e-12);
  EXPECT_NEAR(lines[7]["lr"].get<double>(), 0.01, 1e-12);
  EXPECT_LT(lines[8]["lr"].get<double>(), 0.01);
}

// Sequences of another length are cut and shuffled anew: what was trained on can not be told from what was not.
TEST(Resume, AnotherSequenceLengthIsRefused) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 2}}}});
  const auto before = files_below(run);
  const Outcome o = run_upcycle({"train", small.file("run.json"), "--train.steps=4", "--train.seq_length=64"});
  const std::string line = one_line_error(o);
  for (const char* part : {"command line: train.seq_length: found 64", "expected 32", "init.load", run.c_str()})
    EXPECT_NE(line.find(part), line.npos) << part << " in " << line;
  EXPECT_EQ(files_below(run), before);
}

// Saved by two ranks, resumed by one: the same training, up to the order of sums.
void two_ranks_then_one(const json& parallel) {
  const SmallRun small;
  const json all = {{"parallel", parallel}, {"train", {{"schedule", "constant"}}}};
  const std::string reference = small.train("one", {{"train", {{"schedule", "constant"}}}});
  json half = all;
  half["train"]["steps"] = 3;
  const std::string run = small.train("two", half, 2);
  EXPECT_EQ(json_of({"inspect", run, "--json"})["layout"]["world"], 2);
  EXPECT_EQ(checkpoint_hashes(run).size(), 4u);  // model and optimizer of two ranks
  small.train("two", {{"train", {{"schedule", "constant"}}}});
  const std::vector<json> expected = step_lines(reference), found = step_lines(run);
  ASSERT_EQ(expected.size(), 6u);
  ASSERT_EQ(found.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(found[i]["step"], i + 1);
    EXPECT_NEAR(found[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-4) << i;
  }
}

TEST(FourRanks, UpcycledOverTensorAndExpertParallelRanksAsOnOne) {
  const SmallRun small;
  const std::string dense = small.train("dense", {{"train", {{"steps", 2}}}});
  json moe = {
      {"model", {{"num_local_experts", 4}}}, {"init", {{"upcycle", dense}}}, {"train", {{"micro_batch_size", 1}}}};
  const std::vector<json> expected = step_lines(small.train("one", moe));
  moe["parallel"] = {{"tp", 2}, {"ep", 4}};
  const std::string four = small.train("four", moe, 4);
  const std::vector<json> found = step_lines(four);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-4) << i;
  EXPECT_EQ(json_of({"inspect", four, "--json"})["layout"]["ep"], 4);
  EXPECT_EQ(run_upcycle({"export", four, small.file("hf")}).exit_code, 0);
}

TEST(TwoRanks, DataParallelThenOne) { two_ranks_then_one({{"tp", 1}}); }
TEST(TwoRanks, TensorParallelThenOne) { two_ranks_then_one({{"tp", 2}}); }

}  // namespace
}  // namespace upcycle
