#include "launch/bench/server_answers.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

std::string data(const std::string& message) { return "data: " + message + "\n\n"; }
const std::string kToken = data(R"({"choices": [{"text": "a", "finish_reason": null}]})");

std::string error_of(const std::string& answer, std::int64_t asked = 4) {
  CompletionStream stream(asked);
  const bool good = stream.feed(answer);
  EXPECT_EQ(good, stream.error().empty());
  EXPECT_FALSE(!good && stream.feed(kToken)) << "what follows an error is ignored";
  EXPECT_EQ(stream.error().find('\n'), std::string::npos) << stream.error();
  EXPECT_LT(stream.error().size(), 300u);
  return stream.error();
}

TEST(CompletionStream, CountsWhatTheServerSays) {
  CompletionStream stream(4);
  EXPECT_TRUE(stream.feed(kToken + kToken));
  EXPECT_EQ(stream.tokens(), 2);
  EXPECT_EQ(stream.prompt_tokens(), -1);
  EXPECT_FALSE(stream.finished());
  EXPECT_TRUE(stream.feed(data(R"({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": null}})")));
  EXPECT_EQ(stream.prompt_tokens(), 7);
  EXPECT_EQ(stream.output_tokens(), -1);
  EXPECT_TRUE(stream.feed(data("[DONE]")));
  EXPECT_TRUE(stream.finished());
}

TEST(CompletionStream, CountsThatAreNoneAreRefused) {
  for (const char* count : {"-1", "1.5", "1e300", "\"7\"", "[]", "18446744073709551615", "true"})
    for (const char* key : {"prompt_tokens", "completion_tokens"}) {
      const std::string usage = std::string(R"({"choices": [], "usage": {")") + key + "\": " + count + "}}";
      EXPECT_NE(error_of(data(usage)).find("no counts of tokens"), std::string::npos) << usage;
    }
}

TEST(CompletionStream, WhatIsNoStreamOfCompletionsIsRefused) {
  EXPECT_NE(error_of("data: " + std::string((1 << 20) + 1, 'a')).find("no stream"), std::string::npos);  // no end
  EXPECT_NE(error_of("\x1f\x8b\x08 zipped\n").find("no stream"), std::string::npos);
  EXPECT_NE(error_of(data(std::string(100000, '['))).find("no JSON object"), std::string::npos);
  EXPECT_NE(
      error_of(data("{\"error\": " + std::string(1000, '[') + std::string(1000, ']') + "}")).find("no JSON object"),
      std::string::npos);
  EXPECT_NE(error_of(data(R"({"error": "a\u001b[31mb\nc"})")).find("the server says"), std::string::npos);
  EXPECT_NE(error_of(data(R"({"choices": {"text": "a"}})")).find("without choices"), std::string::npos);
  EXPECT_NE(error_of(data(R"({"choices": [[]]})")).find("without text"), std::string::npos);
  EXPECT_EQ(error_of(data("{\"error\": \"\x1b[31m\"}")).find('\x1b'), std::string::npos);
}

// Else a server could fill the memory for as long as a request may take.
TEST(CompletionStream, EndlessStreamsEnd) {
  std::string many;
  for (int i = 0; i < 1016; ++i) many += kToken;
  EXPECT_EQ(error_of(many), "");
  EXPECT_NE(error_of(many + kToken).find("more than 1016 messages"), std::string::npos);
}

TEST(ModelInList, FindsOne) {
  const std::string list = R"({"data": [3, {"id": 4}, {"id": "a", "max_model_len": 8}, {"id": "b"}]})";
  EXPECT_EQ(model_in_list(list, "").name, "a");
  EXPECT_EQ(model_in_list(list, "").max_model_len, 8);
  EXPECT_EQ(model_in_list(list, "b").name, "b");
  EXPECT_EQ(model_in_list(list, "b").max_model_len, 0);
  EXPECT_EQ(model_in_list(list, "c").name, "");
}

TEST(ModelInList, BelievesNothingElse) {
  for (const std::string& answer :
       {std::string(), std::string("[]"), std::string(R"({"data": {"id": "a"}})"),
        std::string(R"({"data": [{"id": ""}]})"), std::string(R"({"data": [{"id": "a\nb"}]})"),
        std::string(R"({"data": [{"id": "\u001b[2J"}]})"), R"({"data": [{"id": ")" + std::string(2000, 'a') + "\"}]}",
        std::string(100000, '{')})
    EXPECT_EQ(model_in_list(answer, "").name, "") << answer.substr(0, 50);
  for (const char* length : {"-5", "1e30", "18446744073709551615", "\"8\"", "[8]"})
    EXPECT_EQ(
        model_in_list(std::string(R"({"data": [{"id": "a", "max_model_len": )") + length + "}]}", "").max_model_len, 0);
}

}  // namespace
}  // namespace upcycle
