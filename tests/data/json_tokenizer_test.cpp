#include "data/json_tokenizer.h"

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/streamed_text.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

Json special(int id, const char* text) {
  return {{"id", id},        {"content", text}, {"special", true}, {"normalized", false}, {"single_word", false},
          {"lstrip", false}, {"rstrip", false}};
}

// Byte-level, as Llama 3's: a character for each byte, some merges; <s> and </s>.
Json byte_level() {
  Json vocabulary;
  const auto character = [](int byte) {  // GPT-2's: printable bytes are themselves, the others come after U+00FF
    const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
    int code = byte;
    if (!printable(byte)) {
      code = 256;
      for (int b = 0; b < byte; ++b) code += !printable(b);
    }
    if (code < 128) return std::string(1, static_cast<char>(code));
    return std::string{static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  };
  for (int byte = 0; byte < 256; ++byte) vocabulary[character(byte)] = byte;
  vocabulary["th"] = 256;
  vocabulary["the"] = 257;
  return {{"version", "1.0"},
          {"added_tokens", {special(258, "<s>"), special(259, "</s>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"t h", "th e"}}}}};
}

// As Llama 2's: a mark for a space, bytes for what has no piece.
Json byte_fallback() {
  Json vocabulary{{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) vocabulary[fmt::format("<0x{:02X}>", byte)] = 3 + byte;
  int next = 259;
  for (const char* piece : {"\xe2\x96\x81", "t", "h", "e", "a", "b", "th", "the", "\xe2\x96\x81the"})
    vocabulary[piece] = next++;
  return {{"version", "1.0"},
          {"added_tokens", {special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "\xe2\x96\x81"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocabulary},
            {"merges", {"t h", "th e", "\xe2\x96\x81 the"}},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true}}}};
}

const std::vector<std::string> samples = {"the three", "", "  two  spaces\n", "Gr\xc3\xbc\xc3\x9f",
                                          "\xe4\xb8\x96 \xf0\x9f\x99\x82 the end"};

struct JsonTokenizerTest : ::testing::Test {
  TemporaryFolder folder;
  std::unique_ptr<Tokenizer> tokenizer;

  void SetUp() override {
    const std::string probe = folder.write("probe.json", byte_level().dump());
    try {
      tokenizer = open_json_tokenizer(probe);
    } catch (const InputError& e) {
      ASSERT_TRUE(contains(e.what(), "launch/install.sh tokenizer_json")) << e.what();
      std::printf("not run: no Python with the package tokenizers (launch/install.sh tokenizer_json)\n");
      GTEST_SKIP();
    }
  }
  std::unique_ptr<Tokenizer> open(const Json& json) const {
    return open_json_tokenizer(folder.write("tokenizer.json", json.dump()));
  }
};

TEST_F(JsonTokenizerTest, TextsGoThereAndBack) {
  for (const Json& json : {byte_level(), byte_fallback()}) {
    const auto t = open(json);
    const auto together = t->encode_all(samples, 2);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const std::string& text = samples[i];
      const auto ids = t->encode(text);
      EXPECT_EQ(together.at(i), ids);
      EXPECT_EQ(t->decode(ids), text);
      bool at_start = true;
      EXPECT_EQ(t->decoded_bytes(ids, at_start), static_cast<std::int64_t>(text.size())) << text;
    }
  }
  EXPECT_EQ(tokenizer->encode("the"), std::vector<std::int32_t>{257});
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->eod_id(), -1);
}

TEST_F(JsonTokenizerTest, SpecialTokensAreThoseThatTheConfigBesideItNames) {
  folder.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  const auto t = open(byte_level());
  EXPECT_EQ(t->bos_id(), 258);
  EXPECT_EQ(t->eod_id(), 259);
  const std::vector<std::int32_t> ids = t->encode("<s>the</s>");
  EXPECT_EQ(ids, (std::vector<std::int32_t>{258, 257, 259}));
  EXPECT_EQ(t->decode(ids), "the");
  bool at_start = true;
  EXPECT_EQ(t->decoded_bytes(ids, at_start), 3);
  EXPECT_TRUE(at_start);
}

TEST_F(JsonTokenizerTest, StreamedTextEndsBetweenCharacters) {
  for (const Json& json : {byte_level(), byte_fallback()}) {
    const auto t = open(json);
    for (const std::string& text : samples) {
      StreamedText streamed(*t, t->encode("the"));
      std::string found;
      for (const std::int32_t id : t->encode(text)) {
        const std::string piece = streamed.add(id);
        EXPECT_EQ(piece.find("\xEF\xBF\xBD"), std::string::npos);
        found += piece;
      }
      found += streamed.finish();
      EXPECT_TRUE(found == text || found == " " + text) << found;
    }
  }
  // What never becomes a character is shown at the end.
  StreamedText broken(*tokenizer, {});
  EXPECT_EQ(broken.add(300), "");  // no token of it
  EXPECT_EQ(broken.add(0xC3), "");
  EXPECT_EQ(broken.finish(), "\xEF\xBF\xBD");
}

TEST_F(JsonTokenizerTest, ATokenizerThatIsNoneIsOneLine) {
  const auto error = [](const std::string& file) { return input_error_of([&] { (void)open_json_tokenizer(file); }); };
  EXPECT_TRUE(contains(error(folder.write("tokenizer.json", "{}")), "tokenizer.json: is not a Hugging Face tokenizer"));
  EXPECT_TRUE(
      contains(error(folder.write("tokenizer.json", byte_level().dump().substr(0, 999))), "give its tokenizer.json"));
  EXPECT_TRUE(contains(error(folder.file("none.json")), "no such file"));
  EXPECT_TRUE(
      contains(input_error_of([&] { (void)tokenizer->decode(std::vector<std::int32_t>{260}); }), "token id 260"));
}

TEST_F(JsonTokenizerTest, TokensWithoutTextHaveNoBytes) {
  const auto t = open({{"version", "1.0"},
                       {"added_tokens", {special(0, "<s>")}},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", nullptr},
                       {"post_processor", nullptr},
                       {"decoder", {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", ""}}},
                       {"model", {{"type", "WordLevel"}, {"vocab", {{"<s>", 0}, {"a", 1}}}, {"unk_token", "<s>"}}}});
  bool at_start = true;
  EXPECT_EQ(t->decoded_bytes(std::vector<std::int32_t>{0, 1, 1}, at_start), 0);
}

// A model's folder may hold Python files, and be the one that the command is called in. Whether the Python here has the
// package or not, it imports json.
TEST(JsonTokenizer, RunsNoCodeOfTheWorkingFolder) {
  const TemporaryFolder folder;
  const std::string mark = folder.file("was_run"), here = std::filesystem::current_path();
  for (const char* module : {"json", "tokenizers", "array", "itertools"})
    folder.write(std::string(module) + ".py", "open('" + mark + "', 'w')\nraise SystemExit\n");
  const std::string tokenizer = folder.write("tokenizer.json", byte_level().dump());
  std::filesystem::current_path(folder.path);
  try {
    open_json_tokenizer(tokenizer);
  } catch (const InputError& e) {
    EXPECT_TRUE(contains(e.what(), "launch/install.sh tokenizer_json")) << e.what();
  }
  std::filesystem::current_path(here);
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(JsonTokenizer, WithoutPythonIsOneLine) {
  const TemporaryFolder folder;
  const std::string file = folder.write("tokenizer.json", "{}");
  const char* const before = std::getenv("UPCYCLE_PYTHON");
  const std::string kept = before != nullptr ? before : "";
  const auto says = [&](const std::string& python, const std::string& found) {
    setenv("UPCYCLE_PYTHON", python.c_str(), 1);
    const std::string error = input_error_of([&] { (void)open_json_tokenizer(file); });
    EXPECT_TRUE(error.starts_with(python + ": " + found)) << error;
    EXPECT_TRUE(contains(error, "; for a tokenizer.json run launch/install.sh tokenizer_json")) << error;
    EXPECT_FALSE(contains(error, "\n")) << error;
  };
  const auto program = [&](const std::string& name, const std::string& body) {
    const std::string path = folder.write(name, "#!/bin/sh\n" + body + "\n");
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  };
  says("/nonexistent/python3", "can not be started (No such file or directory)");
  says(program("silent", "exit 0"), "ended without an answer; ");
  says(program("broken", "echo first >&2; echo 'no module named this' >&2; exit 1"),
       "ended without an answer and said 'no module named this'; ");
  says(program("echo", "echo -c"), "found the answer '-c', expected");
  says(program("list", "echo '[1]'"), "found the answer '[1]', expected");
  says(program("object", "echo '{\"size\": \"1\"}'"), "found the answer '{\"size\": \"1\"}', expected");
  says(program("late", "echo '{\"size\": 1, \"bos\": 0}'"), "found the answer");
  {
    setenv("UPCYCLE_PYTHON", program("gone", R"(echo '{"size": 9, "bos": 0, "eos": 0}'; read x; echo oh >&2)").c_str(),
           1);
    const auto t = open_json_tokenizer(file);
    EXPECT_TRUE(contains(input_error_of([&] { (void)t->encode("a"); }), "gone: ended without an answer and said 'oh'"));
    EXPECT_TRUE(contains(input_error_of([&] { (void)t->encode("a"); }), "gone: ended"));
  }
  kept.empty() ? unsetenv("UPCYCLE_PYTHON") : setenv("UPCYCLE_PYTHON", kept.c_str(), 1);
}

}  // namespace
}  // namespace upcycle
