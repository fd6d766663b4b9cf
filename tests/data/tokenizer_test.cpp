#include "data/tokenizer.h"
#include "tests/core/input_error.h"

#include <cstring>
#include <filesystem>

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

// The table of a model's normalizer, and the model with it changed. The protobuf's lengths stay as they are.
struct Table {
  std::string model;
  std::size_t begin = 0, bytes = 0;  // of the double array
  std::size_t texts_end = 0;

  explicit Table(std::string from) : model(std::move(from)) {
    // NormalizerSpec begins with its name; its second field is the table, of some 200 KB: a varint of three bytes.
    const std::size_t name = model.find("nmt_nfkc");
    const auto* const at = reinterpret_cast<const unsigned char*>(model.data() + name + 8);
    EXPECT_EQ(at[0], 0x12);
    const std::size_t size = (at[1] & 127u) | (at[2] & 127u) << 7 | static_cast<std::size_t>(at[3]) << 14;
    std::uint32_t array = 0;
    std::memcpy(&array, at + 4, sizeof array);
    begin = name + 8 + 4 + 4;
    bytes = array;
    texts_end = name + 8 + 4 + size;
  }
  std::uint32_t unit(std::size_t i) const {
    std::uint32_t bits = 0;
    std::memcpy(&bits, model.data() + begin + 4 * i, sizeof bits);
    return bits;
  }
  std::string with(std::size_t i, std::uint32_t bits) const {
    std::string changed = model;
    std::memcpy(changed.data() + begin + 4 * i, &bits, sizeof bits);
    return changed;
  }
};

// sentencepiece itself follows such a table out of its memory.
TEST(OpenTokenizer, RefusesTablesThatLeadOutside) {
  const TemporaryFolder folder;
  train_small_tokenizer(folder, small_tokenizer_settings[1]);
  const Table table(folder.read("small.model"));
  ASSERT_GT(table.bytes, 1000u);
  const auto error = [&](const std::string& model) {
    return input_error_of([&] { open_tokenizer(folder.write("bad.model", model)); });
  };
  EXPECT_NO_THROW(open_tokenizer(folder.write("same.model", table.with(0, table.unit(0)))));
  const std::uint32_t far = 0x003ffu << 22 | 1u << 9;  // an offset of a billion
  EXPECT_TRUE(contains(error(table.with(0, far)), "leads outside of itself"));
  const auto has_leaf = [](std::uint32_t bits) { return (bits & 0x100) != 0 && bits >> 31 == 0; };
  const auto offset = [](std::uint32_t bits) { return bits >> 10 << ((bits & 0x200) >> 6); };
  bool tried = false;
  for (std::size_t i = 1; i < table.bytes / 4 && !tried; ++i) {
    if (!has_leaf(table.unit(i))) continue;
    const std::size_t leaf = i ^ offset(table.unit(i));
    if (leaf >= table.bytes / 4 || table.unit(leaf) >> 31 == 0) continue;
    tried = true;
    EXPECT_TRUE(contains(error(table.with(leaf, 0xffffffffu)), "a text outside of itself"));
  }
  EXPECT_TRUE(tried);
  std::string endless = table.model;
  endless[table.texts_end - 1] = 'a';
  EXPECT_TRUE(contains(error(endless), "a text without an end"));
  std::string longer = table.model;
  std::memset(longer.data() + table.begin - 4, 0xff, 4);
  EXPECT_TRUE(contains(error(longer), "another size than it says"));
}

TEST(OpenTokenizer, RefusesWhatIsTooLongToBeOne) {
  const TemporaryFolder folder;
  for (const char* name : {"large.model", "large.json"}) {
    std::filesystem::resize_file(folder.write(name, "x"), tokenizer_bytes_max + 1);
    EXPECT_TRUE(
        contains(input_error_of([&] { open_tokenizer(folder.file(name)); }), "expected a tokenizer of at most"));
  }
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
