#include "launch/bench/request_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "launch/bench/workload.h"

namespace upcycle {
namespace {

std::vector<FileRequest> read(const std::string& text, bool tokenizer = true) {
  const std::string file = testing::TempDir() + "requests.jsonl";
  std::ofstream(file) << text;
  if (!tokenizer) return read_requests(file, 50, nullptr);
  return read_requests(file, 50, [](const std::string& s) { return std::vector<std::int32_t>(s.size(), 3); });
}

TEST(RequestFile, RequestsComeFromAFile) {
  Workload w;
  w.vocab_size = 50;
  use_requests(w, read("{\"prompt_len\": 20, \"output_len\": 2}\n\n{\"prompt\": [1, 2], \"max_tokens\": 3}\n"
                       "{\"prompt\": \"abcd\", \"max_tokens\": 4}"));
  const std::vector<TimedRequest> requests = draw_requests(w, std::vector<double>(4), 1);
  EXPECT_EQ(requests[0].request.prompt.size(), 20);
  EXPECT_EQ(requests[0].request.max_tokens, 2);
  EXPECT_EQ(requests[1].request.prompt, (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(requests[2].request.prompt, (std::vector<std::int32_t>{3, 3, 3, 3}));
  EXPECT_EQ(requests[2].request.max_tokens, 4);
  EXPECT_EQ(requests[3].request.prompt.size(), 20);
  EXPECT_EQ(longest_request(w), 22);
  EXPECT_EQ(w.input_len, 8);
  EXPECT_EQ(w.output_len, 3);
  // What the first rank reads comes to the others as text.
  const auto again = parse_requests(to_text(w.file), "again", 50, nullptr);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(again[i].ids, w.file[i].ids);
  EXPECT_EQ(again[0].prompt_len, 20);
}

TEST(RequestFile, ABadFileIsRefusedWithItsLine) {
  const auto refused = [](const std::string& line, const std::string& named, bool tokenizer = true) {
    try {
      read("{\"prompt_len\": 20, \"output_len\": 2}\n" + line, tokenizer);
      ADD_FAILURE() << line;
    } catch (const InputError& e) {
      const std::string what = e.what();
      EXPECT_NE(what.find("line 2"), what.npos) << what;
      EXPECT_NE(what.find(named), what.npos) << what;
      EXPECT_EQ(what.find('\n'), what.npos) << what;
    }
  };
  refused(R"({"prompt_len": 20, "output_len": 2, "temperature": 1})", "temperature");
  refused(R"({"prompt_len": 0, "output_len": 2})", "prompt_len");
  refused(R"({"prompt_len": 1.5, "output_len": 2})", "1.5");
  refused(R"({"prompt_len": 3})", "max_tokens");
  refused(R"({"prompt": [1, 50], "max_tokens": 2})", "prompt[1]");
  refused(R"({"prompt": [], "max_tokens": 2})", "prompt");
  refused(R"({"prompt": "a", "max_tokens": 2})", "tokenizer", false);
  refused("[1]", "no object");
  refused("{", "line 2");
  EXPECT_THROW(read("\n"), InputError);
}

}  // namespace
}  // namespace upcycle
