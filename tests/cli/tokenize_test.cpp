#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/run_program.h"

namespace upcycle {
namespace {

class TokenizeCommand : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  const std::filesystem::path folder_ = ::testing::TempDir() + "tokenize_test_" + std::to_string(getpid());
  const std::string output_ = folder_ / "set";
};

TEST_F(TokenizeCommand, WritesATokenSet) {
  const std::string a = file("a.txt", "one\n<|endoftext|>\ntwo two\n"), b = file("b.txt", "three");
  const Outcome o = run_upcycle(
      {"tokenize", "--tokenizer", "bytes", "--output", output_, "--doc-separator", "<|endoftext|>", "--json", a, b});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.err, "");
  const auto result = nlohmann::json::parse(o.out);  // one object and nothing else
  EXPECT_EQ(result["documents"], 3);
  EXPECT_EQ(result["tokens"], 3 + 7 + 5 + 3);  // each document ends in a token
  EXPECT_EQ(result["text_bytes"], 15);
  EXPECT_EQ(result["output"], output_);
  EXPECT_TRUE(std::filesystem::exists(output_ + ".bin"));
  EXPECT_TRUE(std::filesystem::exists(output_ + ".idx"));
  EXPECT_EQ(entries(), 4u);
}

TEST_F(TokenizeCommand, MakesTheFolderOfItsOutput) {
  const std::string output = folder_ / "tokens/new/set";
  const Outcome o = run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + output, file("a.txt", "one\n")});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_TRUE(std::filesystem::exists(output + ".idx"));
}

TEST_F(TokenizeCommand, SaysWhatItWroteOnStandardError) {
  const Outcome o = run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + output_, file("a.txt", "one\n")});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(o.err, output_ + ": 1 documents, 4 tokens, 3 bytes of text\n");
}

TEST_F(TokenizeCommand, BadInputIsOneLineAndLeavesNothing) {
  const std::string good = file("a.txt", "one\n"), bad_json = file("b.jsonl", "{\"text\": 5}\n");
  const std::vector<std::string> start{"tokenize", "--tokenizer", "bytes", "--output", output_};
  const auto error = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = start;
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string line = one_line_error(run_upcycle(arguments));
    EXPECT_EQ(entries(), 2u) << line;
    return line;
  };
  EXPECT_NE(error({good, "/no/such.txt"}).find("/no/such.txt"), std::string::npos);
  EXPECT_NE(error({good, bad_json}).find("b.jsonl"), std::string::npos);
  EXPECT_NE(error({}).find("files"), std::string::npos);
  EXPECT_NE(error({good, "--threads=-1"}).find("--threads: found -1"), std::string::npos);
  EXPECT_NE(error({good, "--tokenizer=/no/such.model"}).find("/no/such.model"), std::string::npos);
  EXPECT_NE(error({good, "--train.lr=1"}).find("--train.lr"), std::string::npos);
  EXPECT_NE(error({good, "--output=" + good + "/set"}).find("cannot make the folder"), std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle({"tokenize", "--tokenizer=bytes", good})).find("--output is required"),
            std::string::npos);
}

}  // namespace
}  // namespace upcycle
