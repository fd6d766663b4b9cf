#include "launch/prompts.h"

#include <fmt/format.h>

#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

struct PromptsTest : ::testing::Test {
  TemporaryFolder folder;
  ModelConfig model;
  std::unique_ptr<Tokenizer> bytes = open_tokenizer("bytes");
  PromptsTest() {
    model.vocab_size = 258;
    model.max_position_embeddings = 128;
  }

  std::vector<Request> requests(const std::string& name, const std::string& text, bool tokenizer = true) const {
    Prompt defaults;
    defaults.sampling.seed = 7;
    return make_requests(read_prompts(folder.write(name, text), defaults), model, tokenizer ? bytes.get() : nullptr);
  }
  void refused(const std::string& line, const std::string& says, bool tokenizer = true) const {
    const std::string text = "{\"prompt\": [65]}\n\n" + line + "\n";
    const std::string error = input_error_of([&] { (void)requests("p.jsonl", text, tokenizer); });
    EXPECT_TRUE(contains(error, "p.jsonl:3: " + says)) << line << ": " << error;
  }
};

TEST_F(PromptsTest, OneForEachLineThatIsNotBlank) {
  const auto all = requests("p.txt", "ab\r\n \t\n\n c");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].prompt, (std::vector<std::int32_t>{256, 'a', 'b'}));
  EXPECT_EQ(all[1].prompt, (std::vector<std::int32_t>{256, ' ', 'c'}));
  EXPECT_EQ(all[0].sampling.seed, 7u);
  EXPECT_EQ(all[1].sampling.seed, 8u);
  EXPECT_EQ(all[1].max_tokens, 125);  // what the context has room for
  EXPECT_EQ(all[1].stop, std::vector<std::int32_t>{256});
}

TEST_F(PromptsTest, ALineSaysHowItIsContinued) {
  const auto all = requests("p.jsonl",
                            R"({"prompt": [3, 2], "max_tokens": 4, "temperature": 0.5, "top_k": 6, )"
                            R"("top_p": 0.75, "seed": 9, "stop_token_ids": [8]})",
                            false);
  ASSERT_EQ(all.size(), 1u);
  const Request& r = all[0];
  EXPECT_EQ(r.prompt, (std::vector<std::int32_t>{3, 2}));
  EXPECT_EQ(r.max_tokens, 4);
  EXPECT_EQ(r.stop, std::vector<std::int32_t>{8});
  EXPECT_EQ(r.sampling.temperature, 0.5);
  EXPECT_EQ(r.sampling.top_k, 6);
  EXPECT_EQ(r.sampling.top_p, 0.75);
  EXPECT_EQ(r.sampling.seed, 9u);
  EXPECT_EQ(to_text(requests_from(to_text(all))), to_text(all));
}

TEST_F(PromptsTest, AFaultIsOneLineWithFileLineAndKey) {
  refused(R"({"prompt": "x", "temprature": 1})", "unknown key 'temprature', did you mean 'temperature'?");
  refused(R"({"prompt": "x", "temperature": "hot"})", "temperature: found \"hot\", expected a number");
  refused(R"({"prompt": "x", "temperature": -0.5})", "temperature: found -0.5, expected 0 (greedy) or more");
  refused(R"({"prompt": "x", "top_p": 0})", "top_p: found 0.0, expected more than 0, at most 1");
  refused(R"({"prompt": "x", "top_p": 1.5})", "top_p: found 1.5");
  refused(R"({"prompt": "x", "top_k": -1})", "top_k: found -1");
  refused(R"({"prompt": "x", "seed": 0.5})", "seed: found 0.5, expected an integer");
  refused(R"({"prompt": "x", "seed": 1e300})", "seed: found 1e+300");
  refused(R"({"prompt": "x", "max_tokens": 0})", "max_tokens: found 0, expected 1 or more");
  refused(R"({"prompt": "x", "max_tokens": 127})", "found a prompt of 2 tokens and max_tokens 127, expected at most");
  refused(R"({"prompt": [1, 258]})", "prompt[1]: found 258, expected a token id from 0 to 257");
  refused(R"({"prompt": [1, 4294967296]})", "prompt[1]: found 4294967296");
  refused(R"({"prompt": [1, "a"]})", "prompt[1]: found \"a\"");
  refused(R"({"prompt": []})", "prompt: found []");
  refused(R"({"prompt": 3})", "prompt: found 3");
  refused(R"({"prompt": "x", "stop_token_ids": 3})", "stop_token_ids: found 3, expected a list");
  refused(R"({"prompts": "x"})", "found no object with a \"prompt\"");
  refused(R"(["prompt"])", "found no object");
  refused(R"({"prompt": "x")", "");
  refused(R"({"prompt": "x", "prompt": "y"})", "");
  refused(R"({"prompt": "x"})", "prompt: found a text, but the model has no sentencepiece .model", false);
  const auto file_error = [&](const std::string& text) {
    return input_error_of([&] { (void)requests("p.txt", text); });
  };
  EXPECT_TRUE(contains(file_error(" \r\n\n"), "p.txt: found no prompts, expected one per line"));
  EXPECT_TRUE(contains(file_error("a\n\xff\n"), "p.txt:2: is not valid UTF-8"));
  EXPECT_TRUE(contains(file_error("a\n" + std::string(128, 'x')), "p.txt:2: found a prompt of 129 tokens"));
}

}  // namespace
}  // namespace upcycle
