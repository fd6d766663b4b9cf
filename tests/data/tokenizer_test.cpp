#include "data/tokenizer.h"
#include "tests/core/input_error.h"

#include "tests/data/small_tokenizer.h"
#include "tests/data/temporary_folder.h"
#include "tests/real_models.h"

namespace upcycle {
namespace {

std::int64_t bytes_of(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  bool at_start = true;
  return tokenizer.decoded_bytes(ids, at_start);
}

const std::vector<std::string> samples = {
    "Once upon a time, there was a little girl named Lily.",
    "  two  spaces\n\nnewline\ttab",
    "Gr\xc3\xbc\xc3\x9f"
    "e, \xe4\xb8\x96\xe7\x95\x8c \xf0\x9f\x99\x82",
    "",
    "   ",
    " leading",
    "trailing ",
    "</s> spelled <s> out <0x0A>",
    std::string("nul\0byte", 8),
};

// Whatever the settings of the model: the bytes of a document are those of its decoded text, also when the stream is
// counted in pieces and documents follow each other.
void check_byte_counts(const Tokenizer& tokenizer) {
  std::vector<std::int32_t> stream;
  std::int64_t expected = 0;
  for (const std::string& text : samples) {
    const auto ids = tokenizer.encode(text);
    const auto decoded = tokenizer.decode(ids);
    EXPECT_EQ(bytes_of(tokenizer, ids), static_cast<std::int64_t>(decoded.size())) << text;
    expected += static_cast<std::int64_t>(decoded.size());
    stream.insert(stream.end(), ids.begin(), ids.end());
    stream.push_back(tokenizer.eod_id());
  }
  EXPECT_EQ(bytes_of(tokenizer, stream), expected);
  bool at_start = true;
  std::int64_t counted = 0;
  for (const std::int32_t id : stream) counted += tokenizer.decoded_bytes({&id, 1}, at_start);
  EXPECT_EQ(counted, expected);
}

TEST(ByteTokenizer, RoundTripsAnyBytes) {
  const auto tokenizer = open_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 258);
  EXPECT_EQ(tokenizer->eod_id(), 256);
  EXPECT_EQ(tokenizer->bos_id(), 257);
  std::string all;
  for (int c = 0; c < 256; ++c) all.push_back(static_cast<char>(c));
  const auto ids = tokenizer->encode(all);
  EXPECT_EQ(ids[200], 200);
  EXPECT_EQ(tokenizer->decode(ids), all);
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{257, 'h', 'i', 256}), "hi");
  EXPECT_EQ(bytes_of(*tokenizer, {257, 'h', 'i', 256}), 2);
  EXPECT_TRUE(
      contains(input_error_of([&] { tokenizer->decode(std::vector<std::int32_t>{258}); }), "vocabulary of 258"));
  check_byte_counts(*tokenizer);
}

TEST(SentencePiece, EncodesDecodesAndCountsBytes) {
  for (const std::string& settings : small_tokenizer_settings) {
    SCOPED_TRACE(settings);
    const TemporaryFolder folder;
    const auto tokenizer = open_tokenizer(train_small_tokenizer(folder, settings));
    EXPECT_EQ(tokenizer->eod_id(), 2);
    EXPECT_EQ(tokenizer->bos_id(), 1);
    const std::string text = "the small river ran past the stone house";
    const bool space_behind = settings.find("suffix") != std::string::npos;  // the library leaves it there
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text + (space_behind ? " " : ""));
    EXPECT_LT(tokenizer->encode(text).size(), text.size() / 2);
    check_byte_counts(*tokenizer);
    const std::int32_t past = static_cast<std::int32_t>(tokenizer->vocab_size());
    for (const std::int32_t id : {past, -1}) {
      EXPECT_TRUE(contains(input_error_of([&] { tokenizer->decode({&id, 1}); }), "outside the tokenizer's vocabulary"));
      EXPECT_TRUE(contains(input_error_of([&] { bytes_of(*tokenizer, {id}); }), "outside the tokenizer's vocabulary"));
    }
  }
}

TEST(SentencePiece, CuttingChangesNothing) {
  const std::string text = small_corpus(200) + "  odd  ,spaces ; caf\xc3\xa9 12 34\n\nlast word";
  int can_cut = 0;
  for (const std::string& settings : small_tokenizer_settings) {
    SCOPED_TRACE(settings);
    const TemporaryFolder folder;
    const auto tokenizer = open_tokenizer(train_small_tokenizer(folder, settings));
    const auto whole = tokenizer->encode(text);
    std::vector<std::int32_t> parts;
    std::string rest = text;
    int cuts = 0;
    for (auto cut = tokenizer->last_cut(rest.substr(0, 100)); cut.end > 0;
         cut = rest.size() > 100 ? tokenizer->last_cut(rest.substr(0, 100)) : Tokenizer::Cut{}) {
      const auto ids = tokenizer->encode(rest.substr(0, cut.end));
      parts.insert(parts.end(), ids.begin(), ids.end());
      rest.erase(0, cut.begin);
      ++cuts;
    }
    const auto ids = tokenizer->encode(rest);
    parts.insert(parts.end(), ids.begin(), ids.end());
    EXPECT_EQ(parts, whole);
    can_cut += cuts > 50;
  }
  // Models whose pieces span spaces, or that fold leading ones without putting one, can not be cut.
  EXPECT_GE(can_cut, 3);
}

TEST(OpenTokenizer, RefusesOtherFiles) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& spec) { return input_error_of([&] { open_tokenizer(spec); }); };
  EXPECT_TRUE(contains(error(folder.file("none.model")), "none.model: cannot be read"));
  EXPECT_TRUE(contains(error(folder.path.string()), "is not a regular file"));
  EXPECT_TRUE(contains(error(folder.write("empty.model", "")), "empty.model: is empty"));
  EXPECT_TRUE(
      contains(error(folder.write("junk.model", "\x01\x02junk junk")), "junk.model: not a sentencepiece model"));
  // Whether there is a Python that reads such files or not, the line is about one.
  EXPECT_TRUE(contains(error(folder.write("tokenizer.json", "{}")), "Hugging Face tokenizer"));
  EXPECT_TRUE(contains(error(folder.write("renamed.model", "{\"version\": 1}")), "Hugging Face tokenizer"));
  const std::string whole = [&] {
    train_small_tokenizer(folder, small_tokenizer_settings[0]);
    return folder.read("small.model");
  }();
  EXPECT_TRUE(
      contains(error(folder.write("cut.model", whole.substr(0, whole.size() / 2))), "not a sentencepiece model"));
  EXPECT_TRUE(
      contains(error(train_small_tokenizer(folder, "--model_type=bpe --eos_id=-1")), "no end-of-sentence piece"));
}

// Ids from the Python package sentencepiece.
TEST(RealTokenizers, AgreeWithPython) {
  const std::string models = real_models();
  if (models.empty()) GTEST_SKIP();
  const struct {
    std::string file;
    std::int64_t vocab_size;
    std::vector<std::vector<std::int32_t>> ids;
  } cases[] = {
      {models + "/stories260K/tok512.model",
       512,
       {{403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426},
        {410, 410, 259, 424, 414, 410, 262, 427, 412, 331, 419, 13,
         13,  416, 411, 424, 421, 271, 411, 12,  413, 412, 430},
        {410, 463, 420, 198, 191, 198, 162, 411, 432, 410, 231, 187, 153, 234, 152, 143, 410, 243, 162, 156, 133},
        {}}},
      {models + "/../tokenizers/mistral_v1.model",
       32000,
       {{5713, 3714, 264, 727, 28725, 736, 403, 264, 1628, 2746, 5160, 25492, 28723},
        {259, 989, 28705, 10599, 13, 13, 1095, 1081, 12, 4252},
        {1778, 28837, 9526, 28725, 28705, 30050, 29822, 28705, 29340},
        {}}},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.file);
    const auto tokenizer = open_tokenizer(each.file);
    EXPECT_EQ(tokenizer->vocab_size(), each.vocab_size);
    EXPECT_EQ(tokenizer->bos_id(), 1);
    EXPECT_EQ(tokenizer->eod_id(), 2);
    for (std::size_t i = 0; i < each.ids.size(); ++i) {
      EXPECT_EQ(tokenizer->encode(samples[i]), each.ids[i]) << samples[i];
      EXPECT_EQ(tokenizer->decode(each.ids[i]), samples[i]);
      EXPECT_EQ(bytes_of(*tokenizer, each.ids[i]), static_cast<std::int64_t>(samples[i].size()));
    }
    check_byte_counts(*tokenizer);
    EXPECT_GT(tokenizer->last_cut("a word and another").end, 0u);
  }
}

}  // namespace
}  // namespace upcycle
