#include <fmt/core.h>

#include <fstream>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

// The last evaluation in RUN/metrics.jsonl.
json last_evaluation(const std::string& run) {
  json last;
  std::ifstream in(run + "/metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    if (json j = json::parse(line); j.contains("eval_loss")) last = j;
  return last;
}

struct DocumentRuns : ::testing::Test {
  SmallRun small;
  json apart = {{"data",
                 {{"train", small.file("docs")},
                  {"valid", small.file("docs")},
                  {"tokenizer", "bytes"},
                  {"reset_attention_mask", true},
                  {"reset_position_ids", true},
                  {"eod_mask_loss", true}}}};

  void SetUp() override {
    std::string text;
    for (int i = 0; i < 60; ++i) text += fmt::format("The {} of {}.\n<sep>\n", i % 3 ? "cat" : "dog", i % 7);
    const Outcome o = run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + small.file("docs"),
                                   "--doc-separator=<sep>", small.folder.write("docs.txt", text)});
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
};

// eval takes the rules of the model's run, and says so; on every layout.
TEST_F(DocumentRuns, EvalKeepsThemApartAsTheRunDid) {
  const std::string run = small.train("run", apart);
  const json trained = last_evaluation(run);
  EXPECT_NEAR(trained["eval_loss_per_byte"].get<double>(), trained["eval_loss"].get<double>() * 13 / 12, 1e-9);
  EXPECT_EQ(trained["eval_tokens"], 60 * 13);  // of each document all but the first token
  const std::vector<std::string> words{"eval", run, "--data", small.file("docs"), "--seq-length=32", "--json"};
  const Outcome said = run_upcycle(words);
  EXPECT_NE(said.err.find("data.reset_attention_mask true, data.reset_position_ids true, data.eod_mask_loss true; "
                          "token 256 ends a document"),
            said.err.npos)
      << said.err;
  const json same = json::parse(said.out);
  EXPECT_NEAR(same["loss"].get<double>(), trained["eval_loss"].get<double>(), 1e-6);
  EXPECT_EQ(same["tokens"], trained["eval_tokens"]);
  const Outcome ranks =
      run_ranks(2, {"eval", run, "--data", small.file("docs"), "--seq-length=32", "--json", "--parallel.tp=2"});
  EXPECT_NEAR(json::parse(ranks.out)["loss"].get<double>(), trained["eval_loss"].get<double>(), 1e-5) << ranks.err;
  std::vector<std::string> otherwise = words;
  otherwise.insert(otherwise.end(), {"--data.reset_attention_mask=false", "--data.reset_position_ids=false"});
  EXPECT_GT(std::abs(json_of(otherwise)["loss"].get<double>() - same["loss"].get<double>()), 1e-4);
}

// The loss of each document, alone in a set of its own, is its part of the whole's.
TEST_F(DocumentRuns, EachCountsWhatItCountsAlone) {
  const std::string run = small.train("run", apart);
  std::vector<std::string> words{"eval",   run,          "--data", small.file("docs"), "--seq-length=128",
                                 "--json", "--documents"};
  const json all = json_of(words);
  ASSERT_EQ(all["documents"].size(), 60u);
  for (const std::size_t d : {1, 5}) {  // whole in the first window
    const json& part = all["documents"][d];
    const Outcome o =
        run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + small.file("one"),
                     small.folder.write("one.txt", fmt::format("The {} of {}.", d % 3 ? "cat" : "dog", d % 7))});
    ASSERT_EQ(o.exit_code, 0) << o.err;
    words[3] = small.file("one");
    const json one = json_of(words);
    EXPECT_EQ(part[1], one["tokens"]);
    EXPECT_NEAR(part[0].get<double>(), one["loss"].get<double>() * one["tokens"].get<double>(), 1e-4);
    EXPECT_EQ(part[2], one["bytes"]);
  }
}

TEST_F(DocumentRuns, AnEndThatIsNotTheirsIsRefused) {
  const std::string config = small.write_config("run", apart);
  const auto refused = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"train", config};
    words.insert(words.end(), more.begin(), more.end());
    return one_line_error(run_upcycle(words));
  };
  EXPECT_NE(refused({"--data.eod_token_id=65"}).find("document 0 ends with token 256, expected 65"), std::string::npos);
  EXPECT_NE(refused({"--data.tokenizer="}).find("data.eod_token_id: found none"), std::string::npos);
  EXPECT_NE(refused({"--data.eod_token_id=258"}).find("less than model.vocab_size = 258"), std::string::npos);
}

// Each answer of a conversation ends as a document does.
TEST_F(DocumentRuns, EndsInsideDocumentsAreSaid) {
  const std::string line = R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
                           R"( {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})";
  (void)json_of({"tokenize", "--tokenizer=bytes", "--chat", "--json", "--output=" + small.file("chat"),
                 small.folder.write("chat.jsonl", line)});
  json changes = apart;
  changes["data"]["train"] = small.file("chat");
  const Outcome o = run_upcycle({"train", small.write_config("run", changes), "--train.steps=1"});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("token 256, which ends documents, also occurs inside document 0"), o.err.npos) << o.err;
}

// Instruction data: answers alone count, in the loss and in its denominator.
TEST_F(DocumentRuns, OnlyAnswersOfConversationsCount) {
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines += json{{"messages",
                   {{{"role", "user"}, {"content", fmt::format("What is {}?", i)}},
                    {{"role", "assistant"}, {"content", fmt::format("{}", i)}}}}}
                 .dump() +
             "\n";
  const json counts = json_of({"tokenize", "--tokenizer=bytes", "--chat", "--json", "--output=" + small.file("chat"),
                               small.folder.write("chat.jsonl", lines)});
  EXPECT_EQ(counts["targets"], 20 + 10 + 20);
  const std::string run =
      small.train("run", {{"data", {{"train", small.file("chat")}, {"valid", small.file("chat")}}}});
  const json result = json_of(
      {"eval", run, "--data", small.file("chat"), "--seq-length=32", "--json", "--documents", "--tokenizer=bytes"});
  EXPECT_EQ(result["tokens"], counts["targets"]);
  EXPECT_EQ(result["bytes"], 30);
  EXPECT_EQ(last_evaluation(run)["eval_tokens"], counts["targets"]);
  double sum = 0;
  for (const json& d : result["documents"]) sum += d[0].get<double>();
  EXPECT_NEAR(sum, result["loss"].get<double>() * 50, 1e-4);
}

TEST_F(DocumentRuns, AShareIsHeldOut) {
  const std::string docs = small.file("docs"), blend = small.folder.write("blend", "2 " + docs + "\n1 " + docs + "\n");
  const json split{{"data", {{"train", nullptr}, {"valid", nullptr}, {"blend", blend}, {"split", "80,20"}}}};
  const std::string run = small.train("run", split);
  const json resolved = json::parse(std::ifstream(run + "/run.json"))["data"];
  EXPECT_EQ(resolved["blend"], "");
  EXPECT_EQ(resolved["train"], (json{{{"path", docs}, {"weight", 2.0}}, {{"path", docs}, {"weight", 1.0}}}));
  const json trained = last_evaluation(run);
  EXPECT_EQ(trained["eval"], docs);
  EXPECT_EQ(trained["eval_tokens"], 12 * 14 - 1);
  const json found =
      json_of({"eval", run, "--data", docs, "--seq-length=32", "--data.split=80,20", "--part=valid", "--json"});
  EXPECT_EQ(found["tokens"], trained["eval_tokens"]);
  EXPECT_NEAR(found["loss"].get<double>(), trained["eval_loss"].get<double>(), 1e-6);
  EXPECT_NE(one_line_error(run_upcycle({"train", small.write_config("both"), "--data.split=80,20"}))
                .find("data.split: found '80,20', expected it absent beside data.valid"),
            std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle({"eval", run, "--data", docs, "--part=valid"})).find("--part"),
            std::string::npos);
}

}  // namespace
}  // namespace upcycle
