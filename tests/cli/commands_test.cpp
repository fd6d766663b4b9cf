#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <sstream>

#include "data/hash.h"
#include "data/token_set.h"
#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

std::vector<std::int32_t> tokens_of(const std::string& prefix) {
  const TokenSet set = TokenSet::open(prefix);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(set.tokens()));
  set.read(0, set.tokens(), ids.data());
  return ids;
}

TEST(Eval, IsTheMeanOfScoreOverTheSameWindows) {
  const SmallRun small;
  const std::string run = small.train("run");
  const std::vector<std::int32_t> ids = tokens_of(small.file("valid"));
  const std::size_t S = 40;  // the last window is ragged
  ASSERT_NE((ids.size() - 1) % S, 0u);
  double sum = 0;
  for (std::size_t first = 0; first + 1 < ids.size(); first += S) {
    const auto end = ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), first + S + 1));
    const std::string file = small.write_ids("w.json", {ids.begin() + static_cast<std::ptrdiff_t>(first), end});
    const json scored = json_of({"score", run, "--ids", file, "--json"});
    for (const json& nll : scored["nll"]) sum += nll.get<double>();
  }
  const json eval = json_of(
      {"eval", run, "--data", small.file("valid"), "--seq-length=40", "--batch=3", "--tokenizer=bytes", "--json"});
  EXPECT_EQ(eval["tokens"].get<std::size_t>(), ids.size() - 1);
  EXPECT_NEAR(eval["loss"].get<double>(), sum / static_cast<double>(ids.size() - 1), 1e-5);
  // All tokens but the first and the end-of-document one are bytes of the text.
  EXPECT_EQ(eval["bytes"].get<std::size_t>(), ids.size() - 2);
  EXPECT_NEAR(eval["loss_per_byte"].get<double>(), sum / static_cast<double>(ids.size() - 2), 1e-5);

  const json without = json_of({"eval", run, "--data", small.file("valid"), "--seq-length=40", "--json"});
  EXPECT_EQ(without["loss"], eval["loss"]);
  EXPECT_TRUE(without.contains("bytes") && without["bytes"].is_null());
  EXPECT_TRUE(without.contains("loss_per_byte") && without["loss_per_byte"].is_null());
}

// The loss does not need the tokenizer of the model: where it can not be read, or its Python dies when asked, the loss
// per byte alone is missing. One that was asked for is another matter, and so is a text to generate.
TEST(Eval, ABrokenPythonCostsTheLossPerByteAlone) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}}), model = small.file("hf");
  ASSERT_EQ(run_upcycle({"export", run, model}).exit_code, 0);
  const std::string tokenizer = small.folder.write("hf/tokenizer.json", "{}");
  const Words eval{"eval", model, "--data=" + small.file("valid"), "--json"};
  for (const char* body : {"exit 1", "echo '{\"size\": 9, \"bos\": 0, \"eos\": 0}'; read line; echo oh >&2"}) {
    const std::string python = small.folder.write("python", fmt::format("#!/bin/sh\n{}\n", body));
    std::filesystem::permissions(python, std::filesystem::perms::owner_all);
    const std::map<std::string, std::string> environment{{"UPCYCLE_PYTHON", python}};
    const Outcome o = run_upcycle(eval, environment);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_NE(o.err.find("no loss per byte: " + python + ": ended without an answer"), std::string::npos) << o.err;
    const json found = json::parse(o.out, nullptr, false);
    EXPECT_TRUE(found.is_object() && found["loss"].is_number() && found["loss_per_byte"].is_null()) << o.out;
    Words given = eval;
    given.push_back("--tokenizer=" + tokenizer);
    for (const Words& words : {given, Words{"generate", model, "x"}}) {
      const std::string error = one_line_error(run_upcycle(words, environment));
      EXPECT_NE(error.find(python + ": ended without an answer"), std::string::npos) << error;
      EXPECT_NE(error.find("launch/install.sh tokenizer_json"), std::string::npos) << error;
    }
  }
}

TEST(Inspect, SaysWhatACheckpointIs) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 2}}}});
  const json j = json_of({"inspect", run, "--json"});
  const std::int64_t H = 32, F = 64, V = 258, KD = 16, L = 2;
  EXPECT_EQ(j["parameters"], 2 * V * H + L * (2 * H * H + 2 * H * KD + 3 * H * F + 2 * H) + H);
  EXPECT_EQ(j["active_parameters"], j["parameters"]);
  EXPECT_EQ(j["step"], 2);
  EXPECT_EQ(j["tokens"], 2 * 4 * 32);
  EXPECT_EQ(j["consumed_samples"], 8);
  EXPECT_EQ(j["model"]["hidden_size"], H);
  EXPECT_EQ(j["optimizer_state"], true);
  EXPECT_EQ(j["tensors"].size(), 3u + 9 * L);
  EXPECT_EQ(j["files"].size(), 2u);
  std::int64_t bytes = 0;
  for (const json& f : j["files"]) {
    const std::string path = run + "/step_00000002/" + f["name"].get<std::string>();
    EXPECT_EQ(f["bytes"], std::filesystem::file_size(path));
    EXPECT_EQ(f["hash"], hash_file(path));
    bytes += f["bytes"].get<std::int64_t>();
  }
  EXPECT_EQ(j["bytes"], bytes);
  EXPECT_EQ(j["config"]["train"]["lr"], 0.01);
  EXPECT_EQ(j["layout"]["world"], 1);
  EXPECT_EQ(j["tensors"][0], (json{{"name", "model.embed_tokens.weight"}, {"shape", {V, H}}, {"optimizer_steps", 2}}));
  EXPECT_EQ(j["verified"], false);
  EXPECT_EQ(json_of({"inspect", run, "--json", "--verify"})["verified"], true);
  const Outcome text = run_upcycle({"inspect", run});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_NE(text.out.find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
}

// Greedy generation with a key/value cache equals scoring all ids again for every token.
// One scoring of all shows most tokens to be the likeliest, as those of more than half the probability; what stands
// before each of the others is scored by itself.
TEST(Generate, GreedyIsRepeatedScoring) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 60}}}});
  const std::string prompt = "The ";
  const std::vector<std::string> command{"generate",        run,          prompt, "--tokenizer=bytes",
                                         "--temperature=0", "--tokens=24"};
  const Outcome o = run_upcycle(command);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  ASSERT_TRUE(o.out.starts_with(prompt) && o.out.size() == prompt.size() + 24 + 1 && o.out.back() == '\n') << o.out;
  std::vector<std::int32_t> ids{256};  // the end of the document before
  for (const char c : o.out) ids.push_back(c);
  ids.pop_back();
  const auto scored = [&](std::size_t n) {
    return json_of({"score", run, "--ids",
                    small.write_ids("ids.json", {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n)}),
                    "--json"});
  };
  const json nll = scored(ids.size())["nll"];
  for (std::size_t at = 1 + prompt.size(); at < ids.size(); ++at) {
    ASSERT_TRUE(0 <= ids[at] && ids[at] < 128) << "the model has not learnt its text: " << o.out;
    if (nll[at - 1].get<double>() < 0.69) continue;
    const auto logits = scored(at)["logits_last"].get<std::vector<float>>();
    EXPECT_EQ(ids[at], std::max_element(logits.begin(), logits.end()) - logits.begin()) << at << " of " << o.out;
  }
  EXPECT_EQ(run_upcycle(command).out, o.out);
}

TEST(Generate, DrawsDependOnlyOnTheSeed) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 10}}}});
  const auto text = [&](const std::string& seed) {
    return run_upcycle({"generate", run, "The", "--tokenizer=bytes", "--temperature=1", "--top-k=20", "--top-p=0.95",
                        "--tokens=40", "--seed=" + seed})
        .out;
  };
  const std::string one = text("1");
  EXPECT_TRUE(one.starts_with("The")) << one;
  EXPECT_EQ(text("1"), one);
  EXPECT_NE(text("2"), one);
}

TEST(Bench, OpsAreTimedAgainstTheirRoof) {
  const SmallRun small;
  const std::string config = small.write_config("bench");
  const auto names = [&](const std::string& more) {
    const json j = json_of({"bench", "ops", config, "--seconds=0.001", "--json", more});
    EXPECT_GT(j["peak_gflops"].get<double>(), 0);
    EXPECT_GT(j["copy_gb_s"].get<double>(), 0);
    std::set<std::string> found;
    for (const json& op : j["ops"]) {
      EXPECT_GT(op["us"].get<double>(), 0) << op;
      EXPECT_GT(op["share_of_roof"].get<double>(), 0) << op;
      found.insert(op["op"]);
    }
    return found;
  };
  const std::set<std::string> dense = names("--train.steps=1"), moe = names("--model.num_local_experts=4");
  EXPECT_TRUE(dense.contains("attention_backward") && dense.contains("adamw") && dense.contains("lion"));
  EXPECT_FALSE(dense.contains("sort_by_expert"));
  EXPECT_TRUE(moe.contains("sort_by_expert") && moe.contains("grouped_matmul NT (gate and up)"));
  EXPECT_TRUE(dense.contains("matmul NT (qkv of 8 tokens)"));
  EXPECT_TRUE(moe.contains("grouped_matmul NT (gate and up of 8 tokens)"));
}

TEST(Bench, StepPrintsOneObject) {
  const SmallRun small;
  const json j = json_of({"bench", "step", small.write_config("bench"), "--steps=2", "--warmup=1", "--json"});
  EXPECT_GT(j["step_ms"].get<double>(), 0);
  EXPECT_NEAR(j["tokens_per_s"].get<double>() * j["step_ms"].get<double>() / 1e3, 4 * 32, 1e-6);
  EXPECT_EQ(j["tokens"], 4 * 32);
  EXPECT_NEAR(j["loss"].get<double>(), std::log(258.0), 0.3);  // random tokens
  EXPECT_FALSE(std::filesystem::exists(small.file("bench")));
}

// The lines of a run's standard error that contain this.
std::vector<std::string> lines_with(const std::string& text, const std::string& part) {
  std::vector<std::string> found;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.find(part) != line.npos) found.push_back(line);
  return found;
}

// 300 bytes of text are 9 sequences of 32 tokens, and a step takes 4.
TEST(Train, NewEpochsAreSaid) {
  const SmallRun small;
  const std::string set = small.file("valid"), config = small.write_config("run", {{"data", {{"train", set}}}});
  const auto epochs = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"train", config};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome o = run_upcycle(words);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return lines_with(o.err, ": epoch ");
  };
  const auto line = [&](int step, int epoch) {
    return fmt::format("step {}: epoch {} of {} began (9 sequences); ", step, epoch, set);
  };
  EXPECT_EQ(epochs({"--train.steps=4"}),
            (std::vector<std::string>{line(3, 2) + "128 tokens of the run are left, 0.444 epochs of it"}));
  EXPECT_EQ(epochs({"--train.steps=6"}),  // resumed
            (std::vector<std::string>{line(5, 3) + "128 tokens of the run are left, 0.444 epochs of it"}));
  // In a blend each set counts by itself: the small one gives two sequences per step.
  const json blend = json::array({{{"path", small.file("train")}, {"weight", 1}}, {{"path", set}, {"weight", 1}}});
  EXPECT_EQ(epochs({"--data.train=" + blend.dump(), "--checkpoint.dir=" + small.file("blend"), "--train.steps=11"}),
            (std::vector<std::string>{line(5, 2) + "768 tokens of the run are left, 1.33 epochs of it",
                                      line(10, 3) + "128 tokens of the run are left, 0.222 epochs of it"}));
}

TEST(Train, WhatItReadsOfEachSetIsSaidAtTheStart) {
  const SmallRun small;
  const std::string set = small.file("valid"), config = small.write_config("run", {{"data", {{"train", set}}}});
  const auto said = [&](const std::string& steps) {
    return lines_with(run_upcycle({"train", config, "--train.steps=" + steps}).err, "data: ");
  };
  const std::string of = "data: " + set + ": 301 tokens in 1 documents, 9 sequences of 32; ";
  EXPECT_EQ(said("4"), std::vector<std::string>{of + "the run reads 16, 1.78 epochs"});
  EXPECT_EQ(said("9"), std::vector<std::string>{of + "the run reads 36, 4 epochs, of which 1.78 are passed"});
}

// Skipping what the first two steps take gives the third step's sequences, also when a run is resumed with it.
TEST(Train, SkippedSamplesAreThoseOfLaterSteps) {
  const SmallRun small;
  const json still = {{"train", {{"steps", 4}, {"lr", 0}, {"min_lr", 0}}}};  // each loss is its batch's alone
  const std::vector<json> all = step_lines(small.train("all", still));
  json skips = still;
  skips["train"]["skip_samples"] = 8;
  const std::vector<json> late = step_lines(small.train("late", skips));
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(late[i]["loss"], all[i + 2]["loss"]);
  json short_run = still;
  short_run["train"]["steps"] = 1;
  (void)small.train("resumed", short_run);
  skips["train"]["steps"] = 2;
  skips["train"]["skip_samples"] = 4;
  EXPECT_EQ(step_lines(small.train("resumed", skips)).back()["loss"], all[2]["loss"]);
}

// Before the first step one line says what is trained, and one what is read; only run.json has all of the config.
TEST(Train, TheRunIsSaidInOneLine) {
  const SmallRun small;
  const Outcome o = run_upcycle({"train", small.write_config("run"), "--train.steps=1"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(std::count(o.err.begin(), o.err.begin() + static_cast<std::ptrdiff_t>(o.err.find("step 1/1")), '\n'), 2)
      << o.err;
  for (const char* part : {"H 32, F 64, L 2, N 4, K 2, V 258", "35.1 k parameters", "fp32 on cpu", "tp 1 x dp 1",
                           "1 steps of 128 tokens = 128", "MiB per rank", "FLOP/s, measured", "run/run.json"})
    EXPECT_EQ(lines_with(o.err, part).size(), 1u) << part << " in: " << o.err;
  EXPECT_EQ(json::parse(std::ifstream(small.file("run/run.json")))["train"]["lr"], 0.01);
}

// All lines of a run are alike, so that their numbers stand below each other, and there is no bar in a file.
TEST(Train, TheConsoleHasOneAlignedLineAStep) {
  const SmallRun small;
  const Outcome o = run_upcycle({"train", small.write_config("run"), "--train.steps=10", "--model.num_local_experts=4",
                                 "--model.router_z_loss_coef=0.1"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::vector<std::string> lines = lines_with(o.err, "/10  loss ");
  ASSERT_EQ(lines.size(), 10u) << o.err;
  EXPECT_EQ(lines[0].substr(0, 18), "step  1/10  loss  ");
  for (const std::string& line : lines) {
    EXPECT_EQ(line.size(), lines[0].size()) << line;
    for (const char* part :
         {"  aux ", "  z ", "  lr ", "  grad norm ", " tokens/s  mfu ", " %  mem ", " GiB  load ", " left"})
      EXPECT_EQ(line.find(part), lines[0].find(part)) << part << " in " << line;
  }
  EXPECT_EQ(o.err.find('\x1b'), std::string::npos);
}

// A terminal's last line is a bar, which makes room for each line above it and is gone at the end.
TEST(Train, ATerminalHasABar) {
  const SmallRun small;
  const std::string command =
      fmt::format("{} train {} --train.steps=3 --train.log_every=3", UPCYCLE_BINARY, small.write_config("run"));
  const Outcome o = run_program({"/usr/bin/script", "-qec", command, "/dev/null"}, {{"TERM", "xterm"}});
  ASSERT_EQ(o.exit_code, 0) << o.out;
  for (const char* bar : {"[########................]  33 %  step 1/3", "[################........]  66 %  step 2/3"})
    EXPECT_NE(o.out.find(bar), std::string::npos) << bar << " in " << o.out;
  EXPECT_EQ(o.out.find("step 2/3  loss  "), std::string::npos) << "log_every";
  EXPECT_NE(o.out.find("\r\x1b[Kdone: "), std::string::npos) << o.out;
  const std::string end = "\r\x1b[K";
  EXPECT_EQ(o.out.substr(o.out.size() - std::min(o.out.size(), end.size())), end) << o.out;
}

TEST(Train, MetricsHaveOneLineAStep) {
  const SmallRun small;
  const std::string run = small.train("run", {{"model", {{"num_local_experts", 4}, {"moe_every_n_layers", 2}}},
                                              {"train", {{"steps", 3}, {"eval_every", 2}}}});
  const std::vector<json> lines = step_lines(run);
  ASSERT_EQ(lines.size(), 3u);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const json& line = lines[i];
    EXPECT_EQ(line["step"], i + 1);
    EXPECT_EQ(line["tokens"], (i + 1) * 4 * 32);
    for (const char* key : {"loss", "aux_loss", "z_loss", "lr", "grad_norm", "tokens_per_s", "mfu", "step_ms"}) {
      ASSERT_TRUE(line.contains(key) && line[key].is_number()) << key;
      EXPECT_GT(line[key].get<double>(), 0) << key;
    }
    ASSERT_EQ(line["moe_layers"].size(), 1u);
    const json& layer = line["moe_layers"][0];
    EXPECT_EQ(layer["layer"], 1);
    EXPECT_GE(layer["load_max_over_mean"].get<double>(), 1);
    EXPECT_LE(layer["load_max_over_mean"].get<double>(), 2);  // E / k
    EXPECT_GT(layer["router_entropy"].get<double>(), 0);
    EXPECT_LE(layer["router_entropy"].get<double>(), std::log(4) + 1e-6);
  }
  std::ifstream in(run + "/metrics.jsonl");
  int evaluations = 0;
  for (std::string line; std::getline(in, line);) evaluations += json::parse(line).contains("eval_loss");
  EXPECT_EQ(evaluations, 2);  // after step 2, and at the end
}

}  // namespace
}  // namespace upcycle
