#include "data/tokenize.h"
#include "tests/core/input_error.h"

#include "data/text_reader.h"
#include "data/token_set.h"
#include "data/tokenizer.h"
#include "tests/data/small_tokenizer.h"
#include "tests/data/temporary_folder.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

std::vector<std::int32_t> ids_of(const TokenSet& set, std::int64_t document) {
  const std::vector<std::int64_t> starts = document_starts(set.prefix());
  const std::int64_t first = starts.at(static_cast<std::size_t>(document)),
                     count = starts.at(static_cast<std::size_t>(document) + 1) - first;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  set.read(first, count, ids.data());
  return ids;
}

// The documents of a token set, decoded; each must end with one end-of-document token.
std::vector<std::string> documents_of(const std::string& prefix, const Tokenizer& tokenizer) {
  const TokenSet set = TokenSet::open(prefix, tokenizer.vocab_size());
  std::vector<std::string> texts;
  for (std::int64_t d = 0; d < set.documents(); ++d) {
    auto ids = ids_of(set, d);
    EXPECT_FALSE(ids.empty());
    EXPECT_EQ(ids.back(), tokenizer.eod_id());
    ids.pop_back();
    EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.eod_id()), 0);
    texts.push_back(tokenizer.decode(ids));
  }
  return texts;
}

std::vector<std::string> tokenized(const TemporaryFolder& folder, TokenizeOptions options,
                                   TokenizeCounts* counts = nullptr) {
  options.tokenizer = "bytes";
  options.output = folder.file("out");
  const auto result = tokenize_files(options);
  const auto texts = documents_of(options.output, *open_tokenizer("bytes"));
  EXPECT_EQ(result.documents, static_cast<std::int64_t>(texts.size()));
  std::int64_t bytes = 0;
  for (const auto& text : texts) bytes += static_cast<std::int64_t>(text.size());
  EXPECT_EQ(result.text_bytes, bytes);
  EXPECT_EQ(result.tokens, bytes + result.documents);
  EXPECT_EQ(result.bytes_read, result.bytes_total);
  if (counts != nullptr) *counts = result;
  return texts;
}

using Texts = std::vector<std::string>;

TEST(Tokenize, EachFileIsADocument) {
  const TemporaryFolder folder;
  TokenizeCounts counts;
  const auto texts = tokenized(folder,
                               {.inputs = {folder.write("a.txt", " one\ntwo\n\n"), folder.write("b.txt", "\n \n"),
                                           folder.write("c.md", "<sep>\nno newline"), folder.write("d.txt", "")}},
                               &counts);
  EXPECT_EQ(texts, (Texts{" one\ntwo\n", "<sep>\nno newline"}));
  EXPECT_EQ(counts.empty_documents, 2);
}

TEST(Tokenize, SeparatorStandsAlone) {
  const TemporaryFolder folder;
  TokenizeCounts counts;
  const std::string input =
      folder.write("a.txt",
                   "first\nline two\n<sep>\n<sep>\n \n<sep>\r\n not a <sep>\n<sep> nor this\n<sep>\n"
                   "last of one file");
  const std::string ends_with_separator = folder.write("b.txt", "next file\n\n<sep>\n");
  const auto texts = tokenized(folder, {.inputs = {input, ends_with_separator}, .doc_separator = "<sep>"}, &counts);
  EXPECT_EQ(texts, (Texts{"first\nline two", " not a <sep>\n<sep> nor this", "last of one file", "next file\n"}));
  EXPECT_EQ(counts.empty_documents, 2);
  EXPECT_EQ(tokenized(folder, {.inputs = {folder.write("c.txt", "x\n<sep>")}, .doc_separator = "<sep>"}), (Texts{"x"}));
}

TEST(Tokenize, JsonLinesAreDocuments) {
  const TemporaryFolder folder;
  const std::string input = folder.write(
      "a.jsonl",
      "{\"text\": \"caf\\u00e9\\n\", \"id\": 1}\n\n  \n{\"text\": \"\"}\r\n{\"text\": \"<sep>\", \"t\": \"other\"}");
  TokenizeCounts counts;
  EXPECT_EQ(tokenized(folder, {.inputs = {input}, .doc_separator = "<sep>"}, &counts),
            (Texts{"caf\xc3\xa9\n", "<sep>"}));
  EXPECT_EQ(counts.empty_documents, 1);
  EXPECT_EQ(tokenized(folder, {.inputs = {folder.write("b.jsonl", "{\"t\": \"other\"}\n")}, .jsonl_key = "t"}),
            (Texts{"other"}));
}

// Lines, characters and documents that cross the borders of the reader's buffers and of the pieces that threads encode.
TEST(Tokenize, LongInputsComeThroughWhole) {
  const TemporaryFolder folder;
  const std::string accents = [] {
    std::string text;
    while (text.size() < 900001) text += "\xc3\xa9\xf0\x9f\x99\x82x";
    return text;
  }();
  const std::string spaces(700000, ' ');
  for (std::size_t shift = 0; shift < 3; ++shift) {
    const std::string padding((std::size_t{1} << 18) - 5 * shift, 'p');
    const std::string input =
        folder.write("a.txt", padding + "\n<sep>\n" + accents + "\n<sep>\n" + spaces + "\n<sep>\n" + spaces + "end");
    TokenizeCounts counts;
    const auto texts = tokenized(folder, {.inputs = {input}, .doc_separator = "<sep>", .threads = 3}, &counts);
    EXPECT_TRUE(texts == (Texts{padding, accents, spaces + "end"}));
    EXPECT_EQ(counts.empty_documents, 1);
  }
  const std::string line = folder.write("b.jsonl", "{\"text\": \"" + accents + "\"}\n{\"text\":\"b\"}");
  EXPECT_TRUE(tokenized(folder, {.inputs = {line}}) == (Texts{accents, "b"}));
}

TEST(Tokenize, FileThatFillsTheBufferExactly) {
  const TemporaryFolder folder;
  const std::size_t size = std::size_t{1} << 18;
  const std::string json = "{\"text\": \"" + std::string(size - 12, 'j') + "\"}";
  ASSERT_EQ(json.size(), size);
  EXPECT_TRUE(tokenized(folder, {.inputs = {folder.write("a.jsonl", json)}}) == Texts{std::string(size - 12, 'j')});
  const std::string text(size, 't');
  EXPECT_TRUE(tokenized(folder, {.inputs = {folder.write("a.txt", text)}}) == Texts{text});
  const std::string cut = std::string(size - 1, 't') + "\xc3";
  EXPECT_TRUE(contains(input_error_of([&] { tokenized(folder, {.inputs = {folder.write("b.txt", cut)}}); }),
                       "b.txt:1: is not valid UTF-8"));
}

TEST(Tokenize, PiecesOfADocumentEqualTheWhole) {
  const TemporaryFolder folder;
  const std::string text = small_corpus(20000);  // about 1 MB
  ASSERT_GT(text.size(), 900000u);
  const std::string input = folder.write("a.txt", text);
  for (const auto& settings : {small_tokenizer_settings[0], small_tokenizer_settings[2]}) {
    const std::string model = train_small_tokenizer(folder, settings);
    const auto tokenizer = open_tokenizer(model);
    std::vector<TokenizeCounts> seen;
    tokenize_files({.tokenizer = model,
                    .output = folder.file("out"),
                    .inputs = {input},
                    .threads = 2,
                    .progress = [&](const TokenizeCounts& counts) { seen.push_back(counts); }});
    auto expected = tokenizer->encode(std::string_view(text).substr(0, text.size() - 1));
    expected.push_back(tokenizer->eod_id());
    EXPECT_TRUE(ids_of(TokenSet::open(folder.file("out")), 0) == expected);
    ASSERT_FALSE(seen.empty());
    EXPECT_EQ(seen.back().documents, 1);
    EXPECT_EQ(seen.back().text_bytes, static_cast<std::int64_t>(text.size()) - 1);
    EXPECT_EQ(seen.back().tokens, static_cast<std::int64_t>(expected.size()));
  }
}

TEST(Tokenize, ThreadsChangeNothing) {
  const TemporaryFolder folder;
  const std::string input = folder.write("a.txt", small_corpus(3000));
  const std::string model = train_small_tokenizer(folder, small_tokenizer_settings[1]);
  std::vector<std::string> written;
  for (const int threads : {1, 4}) {
    tokenize_files({.tokenizer = model,
                    .output = folder.file("out"),
                    .inputs = {input, input, input},
                    .doc_separator = "the small river",
                    .threads = threads});
    written.push_back(folder.read("out.bin") + folder.read("out.idx"));
  }
  EXPECT_TRUE(written[0] == written[1]);
}

TEST(TokenizeErrors, NameFileAndLineAndLeaveNothing) {
  const TemporaryFolder folder;
  const std::string good = folder.write("good.txt", "good\n");
  const auto error = [&](const std::string& name, const std::string& content) {
    const std::string input = folder.write(name, content);
    const auto before = folder.names().size();
    const auto message = input_error_of([&] {
      tokenize_files({.tokenizer = "bytes", .output = folder.file("out"), .inputs = {good, input}});
    });
    EXPECT_EQ(folder.names().size(), before);
    return message;
  };
  EXPECT_TRUE(contains(error("a.txt", "fine\n\nbad \xff\n"), "a.txt:3: is not valid UTF-8"));
  EXPECT_TRUE(contains(error("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\n"), "a.jsonl:2: is not JSON (column 9"));
  EXPECT_TRUE(contains(error("a.jsonl", "[1]\n"), "a.jsonl:1: found array"));
  EXPECT_TRUE(contains(error("a.jsonl", "\n{\"txt\":\"a\"}"), "a.jsonl:2: found an object without it"));
  EXPECT_TRUE(contains(error("a.jsonl", "{\"text\": 5}"), "a.jsonl:1: found number at it"));
  EXPECT_TRUE(contains(error("a.jsonl", "{\"text\":\"\xff\"}"), "a.jsonl:1: is not valid UTF-8"));

  const auto refused = [&](TokenizeOptions options) {
    options.tokenizer = options.tokenizer.empty() ? "bytes" : options.tokenizer;
    options.output = folder.file("out");
    const auto message = input_error_of([&] { tokenize_files(options); });
    EXPECT_FALSE(std::filesystem::exists(folder.file("out.bin")) ||
                 std::filesystem::exists(folder.file("out.bin.tmp")));
    return message;
  };
  EXPECT_TRUE(contains(refused({.inputs = {good, folder.file("none.txt")}}), "none.txt: cannot be read"));
  EXPECT_TRUE(contains(refused({.inputs = {folder.path.string()}}), "cannot be read"));
  EXPECT_TRUE(contains(refused({.inputs = {}}), "no input files"));
  EXPECT_TRUE(contains(refused({.inputs = {folder.write("blank.txt", " \n")}}), "hold no text"));
  EXPECT_TRUE(contains(refused({.inputs = {good}, .doc_separator = "a\nb"}), "--doc-separator"));
  EXPECT_TRUE(contains(refused({.tokenizer = folder.file("none.model"), .inputs = {good}}), "none.model"));
  const std::string uncut(std::size_t{65} << 20, 'x');
  const std::string model = train_small_tokenizer(folder, small_tokenizer_settings[0]);
  EXPECT_TRUE(contains(refused({.tokenizer = model, .inputs = {folder.write("long.txt", uncut)}}),
                       "long.txt:1: 64 MiB of one document without a place to cut it"));
}

TEST(Utf8Check, AcceptsAndRefusesByTheStandard) {
  const auto valid = [](std::string_view text) {
    Utf8Check whole, bytewise;
    const bool accepted = whole.feed(text) && whole.complete();
    bool accepted_bytewise = true;
    for (std::size_t i = 0; i < text.size(); ++i)
      accepted_bytewise = accepted_bytewise && bytewise.feed(text.substr(i, 1));
    EXPECT_EQ(accepted, accepted_bytewise && bytewise.complete());
    return accepted;
  };
  for (const char* text :
       {"", "plain ascii, long enough for eight", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
        "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "12345678\xc3\xa9"})
    EXPECT_TRUE(valid(text)) << text;
  for (const char* text : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xc3(", "\xe2\x82", "\xf0\x9f\x99",
                           "12345678\xe9"
                           "12345678"})
    EXPECT_FALSE(valid(text)) << text;
}

}  // namespace
}  // namespace upcycle
