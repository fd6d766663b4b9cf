#include <fmt/format.h>

#include <sstream>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"
#include "tests/real_models.h"

namespace upcycle {
namespace {

using nlohmann::json;

// The objects that it prints, by index.
std::map<int, json> answers(const Outcome& o) {
  EXPECT_EQ(o.exit_code, 0) << o.err;
  std::map<int, json> found;
  std::istringstream in(o.out);
  for (std::string line; std::getline(in, line);) {
    const json j = json::parse(line, nullptr, false);
    EXPECT_TRUE(j.is_object()) << line;
    if (j.is_object()) found[j["index"]] = j;
  }
  return found;
}

struct GenerateFromAFile : ::testing::Test {
  SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 20}}}, {"model", {{"num_local_experts", 4}}}});

  Words command(const Words& more) const {
    Words words{"generate", run, "--tokenizer=bytes"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::string prompts(const std::vector<json>& lines) const {
    std::string text;
    for (const json& line : lines) text += line.dump() + "\n";
    return "--prompts=" + small.folder.write("prompts.jsonl", text);
  }
};

// Whatever is served beside it, and on every layout, a prompt is answered as it is by itself.
TEST_F(GenerateFromAFile, PromptsAreAnsweredAsByThemselves) {
  const std::vector<json> lines = {{{"prompt", "The cat"}, {"max_tokens", 30}},
                                   {{"prompt", {84, 104, 101}}, {"max_tokens", 7}, {"temperature", 0}},
                                   {{"prompt", std::string(60, 'o')}, {"seed", 5}, {"max_tokens", 20}, {"top_k", 9}},
                                   {{"prompt", "The dog sat on"}, {"temperature", 0}, {"max_tokens", 50}}};
  std::map<int, json> alone;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    json line = lines[i];
    if (!line.contains("seed")) line["seed"] = 1 + i;
    json only = answers(run_upcycle(command({prompts({line}), "--json"}))).at(0);
    only["index"] = i;
    EXPECT_EQ(only["prompt"], line["prompt"]);
    EXPECT_EQ(only["tokens"].size(), line["max_tokens"]);
    EXPECT_EQ(only["finish_reason"], "length");
    alone[static_cast<int>(i)] = only;
  }
  // The third new token of the first ends it.
  json stopped = lines[0];
  stopped["seed"] = 1;
  stopped["stop_token_ids"] = {alone[0]["tokens"][2]};
  const json ended = answers(run_upcycle(command({prompts({stopped}), "--json"}))).at(0);
  EXPECT_EQ(ended["finish_reason"], "stop");
  EXPECT_LE(ended["tokens"].size(), 3u);
  EXPECT_EQ(ended["tokens"].back(), alone[0]["tokens"][2]);

  std::vector<json> more = lines;
  more.push_back(stopped);
  alone[4] = ended;
  alone[4]["index"] = 4;
  const Words together = command({prompts(more), "--json", "--block-size=8", "--max-num-batched-tokens=16"});
  EXPECT_EQ(answers(run_upcycle(together)), alone);
  EXPECT_EQ(answers(run_upcycle(command({prompts(more), "--json", "--policy=prefill_first"}))), alone);
  struct Layout {
    int ranks;
    Words words;
  };
  for (const Layout& layout : {Layout{2, {"--parallel.tp=2", "--parallel.ep=2"}}, Layout{2, {"--parallel.ep=2"}},
                               Layout{4, {"--parallel.tp=2", "--parallel.etp=2", "--parallel.ep=2"}}}) {
    Words words = together;
    words.insert(words.end(), layout.words.begin(), layout.words.end());
    EXPECT_EQ(answers(run_ranks(layout.ranks, words)), alone) << layout.words[0];
  }
}

// Ids need no tokenizer, but for a text to print.
TEST_F(GenerateFromAFile, IdsNeedNoTokenizer) {
  const std::string file = prompts({{{"prompt", {84, 104, 101}}, {"max_tokens", 5}}});
  const json ids = answers(run_upcycle({"generate", run, file, "--json"})).at(0);
  EXPECT_TRUE(ids["text"].is_null()) << ids;
  EXPECT_EQ(ids["tokens"], answers(run_upcycle(command({file, "--json"}))).at(0)["tokens"]);
  EXPECT_EQ(ids["tokens"].size(), 5u);
  EXPECT_NE(one_line_error(run_upcycle({"generate", run, file})).find("--tokenizer, or use --json"), std::string::npos);
}

TEST_F(GenerateFromAFile, TextsArePrintedInTheirOrder) {
  const std::string file = small.folder.write("prompts.txt", "The cat\n\nThe dog sat\r\nThe");
  const auto alone = [&](const std::string& prompt, const std::string& seed) {
    return run_upcycle(command({prompt, "--tokens=12", "--seed=" + seed})).out;
  };
  const std::string expected = alone("The cat", "1") + "\n" + alone("The dog sat", "2") + "\n" + alone("The", "3");
  EXPECT_EQ(run_upcycle(command({"--prompts=" + file, "--tokens=12", "--max-num-seqs=2"})).out, expected);
}

TEST_F(GenerateFromAFile, WhatCanNotBeServedIsOneLine) {
  const auto refused = [&](const json& line, const Words& named, const Words& more = {}) {
    Words words = command({prompts({{{"prompt", "good"}}, line})});
    words.insert(words.end(), more.begin(), more.end());
    const std::string error = one_line_error(run_upcycle(words));
    for (const std::string& part : named) EXPECT_NE(error.find(part), std::string::npos) << part << " in: " << error;
  };
  refused({{"prompt", "x"}, {"temprature", 1}}, {"prompts.jsonl:2: unknown key 'temprature'", "'temperature'"});
  refused({{"prompt", std::string(128, 'x')}}, {"prompts.jsonl:2", "129 tokens", "= 128"});
  refused({{"prompt", "x"}}, {"prompts.jsonl:1: found a prompt of 5 tokens", "max_model_len"}, {"--max-model-len=16"});
  refused({{"prompt", "x"}}, {"a prompt and --prompts"}, {"y"});
  refused({{"prompt", "x"}}, {"--memory: found 1000 bytes per rank"}, {"--memory=1000"});
  refused({{"prompt", "x"}}, {"--policy: found 'fair'"}, {"--policy=fair"});
  refused({{"prompt", "x"}}, {"temperature: found -1.0"}, {"--temperature=-1"});
  refused({{"prompt", "x"}}, {"top_p: found 2.0"}, {"--top-p=2"});
  expect_one_line(run_ranks(2, command({"--prompts=" + small.folder.write("none.txt", "\n")})), {"found no prompts"});
}

// Against transformers; golden/make_greedy.py says how these were made.
TEST(RealModels, GreedyTokensAreThoseOfTransformers) {
  const std::string folder = real_models();
  if (folder.empty()) GTEST_SKIP();
  const SmallRun small;
  const json cases = json::parse(std::ifstream(UPCYCLE_ROOT "/tests/golden/greedy.json"));
  for (const auto& [name, c] : cases.items()) {
    std::string model = folder + "/" + c["model"].get<std::string>();
    if (!c["overrides"].empty()) {
      Words train{"train", "--init.upcycle=" + model, "--data.train=" + small.file("train"),
                  "--checkpoint.dir=" + small.file("run")};
      for (const std::string word : c["overrides"]) train.push_back(word);
      ASSERT_EQ(run_upcycle(train).exit_code, 0);
      model = small.file("hf");
      ASSERT_EQ(run_upcycle({"export", small.file("run"), model}).exit_code, 0);
    }
    EXPECT_EQ(c["tokens"].size(), 64u) << name;
    const json line{{"prompt", c["prompt"]}, {"max_tokens", c["tokens"].size()}};
    const Words words{"generate",        model,    "--prompts=" + small.folder.write("prompts.jsonl", line.dump()),
                      "--temperature=0", "--json", "--tokenizer=bytes"};
    EXPECT_EQ(answers(run_upcycle(words)).at(0)["tokens"], c["tokens"]) << name;
    Words two = words;
    two.insert(two.end(), {"--parallel.tp=2", "--parallel.ep=2"});
    EXPECT_EQ(answers(run_ranks(2, two)).at(0)["tokens"], c["tokens"]) << name;
  }
}

TEST(RealModels, ATokenizerJsonIsReadForGenerating) {
  const std::string folder = real_models();
  if (folder.empty()) GTEST_SKIP();
  const Outcome o =
      run_upcycle({"generate", folder + "/TinyStories-656K", "Once upon a time", "--temperature=0", "--tokens=64"});
  if (o.err.find("launch/install.sh tokenizer_json") != std::string::npos) {
    std::printf("not run: no Python with the package tokenizers (launch/install.sh tokenizer_json)\n");
    GTEST_SKIP();
  }
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_TRUE(o.out.starts_with("Once upon a time, a little girl named Lily lived in a small house with her mom,"))
      << o.out;
}

}  // namespace
}  // namespace upcycle
