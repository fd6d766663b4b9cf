#include "data/tokenize.h"
#include "tests/core/input_error.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "data/text_reader.h"
#include "data/token_set.h"
#include "data/tokenize_state.h"
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
  EXPECT_TRUE(
      contains(error("a.jsonl", "{\"text\":\"a\"}\n" + std::string(100000, '[')), "a.jsonl:2: found more than 256"));
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

TEST(Tokenize, CompressedFilesAreReadAsWhatTheyHold) {
  const TemporaryFolder folder;
  // Two members, and two frames, of "one two\n" and "three\n<|end|>\nfour\n".
  const std::string gz(
      "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\xcf\x4b\x55\x28\x29\xcf\xe7\x02\x00\x43\x3c\xcb\x99\x08\x00\x00\x00"
      "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xc9\x28\x4a\x4d\xe5\xb2\xa9\x49\xcd\x4b\xa9\xb1\xe3\x4a\xcb\x2f\x2d"
      "\xe2\x02\x00\x5e\x2e\x62\xc0\x13\x00\x00\x00",
      67);
  const std::string zst(
      "\x28\xb5\x2f\xfd\x04\x58\x41\x00\x00\x6f\x6e\x65\x20\x74\x77\x6f\x0a\x1f\xa2\x20\xb4\x28\xb5\x2f\xfd\x00\x58\x99"
      "\x00\x00\x74\x68\x72\x65\x65\x0a\x3c\x7c\x65\x6e\x64\x7c\x3e\x0a\x66\x6f\x75\x72\x0a",
      49);
  const Texts expected{"one two\nthree", "four"};
  const auto read = [&](const std::string& name, const std::string& bytes) {
    return tokenized(folder, {.inputs = {folder.write(name, bytes)}, .doc_separator = "<|end|>"});
  };
  EXPECT_EQ(read("a.txt.gz", gz), expected);
  const auto error = [&](const std::string& name, const std::string& bytes) {
    return input_error_of([&] { (void)read(name, bytes); });
  };
  EXPECT_TRUE(contains(error("b.txt.gz", gz.substr(0, 50)), "b.txt.gz: is not whole gzip data"));
  EXPECT_TRUE(contains(error("c.txt.gz", "plain text\n"), "c.txt.gz: is not gzip data"));
  EXPECT_TRUE(contains(error("a.parquet", "PAR1"), "launch/tokenize_hf.py reads it"));
  try {
    EXPECT_EQ(read("a.txt.zst", zst), expected);
  } catch (const InputError& e) {
    ASSERT_TRUE(contains(e.what(), "built without libzstd"));
    return;
  }
  EXPECT_TRUE(contains(error("b.txt.zst", zst.substr(0, 30)), "b.txt.zst: is not whole zstd data"));
  EXPECT_TRUE(contains(error("c.txt.zst", "plain text\n"), "c.txt.zst: is not zstd data"));
}

TEST(Tokenize, InvalidUtf8IsReplacedOrLeftOutAndCounted) {
  const TemporaryFolder folder;
  // The second document is longer than a batch: its beginning is written before its broken end is read.
  const std::string long_text(std::size_t{5} << 20, 'x');
  const std::string text =
      folder.write("a.txt", "fine\n<sep>\nb\xff\xe2\x82(\n<sep>\n" + long_text + "\xc3\n<sep>\nend\n");
  const auto read = [&](const std::string& input, InvalidUtf8 rule, TokenizeCounts& counts) {
    return tokenized(folder, {.inputs = {input}, .doc_separator = "<sep>", .invalid_utf8 = rule, .threads = 1},
                     &counts);
  };
  TokenizeCounts counts;
  EXPECT_TRUE(read(text, InvalidUtf8::Replace, counts) ==
              (Texts{"fine", "b\xef\xbf\xbd\xef\xbf\xbd(", long_text + "\xef\xbf\xbd", "end"}));
  EXPECT_EQ(counts.invalid_characters, 3);
  EXPECT_EQ(counts.invalid_documents, 2);
  EXPECT_TRUE(read(text, InvalidUtf8::Skip, counts) == (Texts{"fine", "end"}));
  EXPECT_EQ(counts.invalid_documents, 2);
  EXPECT_EQ(counts.empty_documents, 0);
  // In JSON half a surrogate pair is broken too.
  const std::string lines = folder.write(
      "a.jsonl", "{\"text\": \"a\xff\"}\n{\"text\": \"\\ud83d\\ude42 \\\\ud800 \\ud800!\"}\n{\"text\": \"c\"}\n");
  EXPECT_EQ(read(lines, InvalidUtf8::Replace, counts),
            (Texts{"a\xef\xbf\xbd", "\xf0\x9f\x99\x82 \\ud800 \xef\xbf\xbd!", "c"}));
  EXPECT_EQ(counts.invalid_characters, 2);
  EXPECT_EQ(read(lines, InvalidUtf8::Skip, counts), (Texts{"c"}));
  EXPECT_EQ(counts.invalid_documents, 2);
  EXPECT_TRUE(contains(input_error_of([&] { read(lines, InvalidUtf8::Error, counts); }), "a.jsonl:1: is not valid"));
}

// Killed after its second or third batch, the same call keeps what was whole and ends with the same bytes.
TEST(Tokenize, AKilledCallGoesOn) {
  const TemporaryFolder folder;
  std::string text;
  for (int d = 0; text.size() < std::size_t{9} << 20; ++d) {
    text.append(static_cast<std::size_t>(1000 + 7919 * d % 400000), static_cast<char>('a' + d % 26));
    text += d % 5 == 3 ? "\xff\n<sep>\n" : d % 7 == 2 ? "\n<sep>\n\n<sep>\n" : "\n<sep>\n";
  }
  TokenizeOptions options{.tokenizer = "bytes",
                          .output = folder.file("whole"),
                          .inputs = {folder.write("a.txt", "first\n"), folder.write("b.txt", text)},
                          .doc_separator = "<sep>",
                          .invalid_utf8 = InvalidUtf8::Skip,
                          .threads = 1,
                          .save_every = 0};
  const TokenizeCounts whole = tokenize_files(options);
  options.output = folder.file("cut");
  for (const int batches : {2, 1}) {
    const pid_t child = ::fork();
    if (child == 0) {
      int seen = 0;
      options.progress = [&](const TokenizeCounts&) {
        if (++seen == batches) ::_exit(9);
      };
      (void)tokenize_files(options);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 9);
  }
  EXPECT_FALSE(std::filesystem::exists(folder.file("cut.idx")));
  const TokenizeCounts rest = tokenize_files(options);
  EXPECT_GT(rest.kept_documents, 10);
  EXPECT_LT(rest.kept_documents, rest.documents);
  EXPECT_TRUE(folder.read("cut.bin") == folder.read("whole.bin"));
  EXPECT_TRUE(folder.read("cut.idx") == folder.read("whole.idx"));
  for (const auto count :
       {&TokenizeCounts::documents, &TokenizeCounts::empty_documents, &TokenizeCounts::tokens,
        &TokenizeCounts::text_bytes, &TokenizeCounts::bytes_read, &TokenizeCounts::invalid_documents})
    EXPECT_EQ(rest.*count, whole.*count);
  EXPECT_EQ(folder.names().size(), 6u) << "something is left beside the texts and the sets";
}

TEST(Tokenize, WhatAnotherCallLeftIsNotKept) {
  const TemporaryFolder folder;
  const std::string input = folder.write("a.txt", "new text");
  folder.write("out.resume", R"({"call": "another"})");
  folder.write("out.bin.tmp", "xxxxxxxx");
  folder.write("out.sizes.tmp", "xxxxxxxx");
  EXPECT_EQ(tokenized(folder, {.inputs = {input}}), (Texts{"new text"}));
  EXPECT_FALSE(std::filesystem::exists(folder.file("out.resume")));
}

// What a call leaves to go on from, changed in a way that it does not write.
TEST(Tokenize, WhatIsDamagedIsNotKept) {
  const TemporaryFolder folder;
  const std::string input = folder.write("a.txt", "new text");
  const TokenizeOptions options{.tokenizer = "bytes", .output = folder.file("out"), .inputs = {input}};
  const TokenizeState state(options);
  state.write({});
  const std::string good = folder.read("out.resume");
  for (const char* key : {"\"tokens\":0", "\"input\":0", "\"offset\":0"})
    for (const char* other : {"\"tokens\":[]", "\"x\":0"}) {
      std::string bad = good;
      const std::size_t at = bad.find(key);
      ASSERT_NE(at, bad.npos) << key;
      folder.write("out.resume", bad.replace(at, std::strlen(key), other));
      EXPECT_FALSE(state.read(258)) << bad;
    }
  folder.write("out.resume", "{\"call\": 5}");
  EXPECT_FALSE(state.read(258));
  folder.write("out.resume", good);
  EXPECT_EQ(tokenized(folder, {.inputs = {input}}), (Texts{"new text"}));
}

// The template is Tulu's; only answers and the tokens that end them count.
TEST(Tokenize, ConversationsHaveALossMask) {
  const TemporaryFolder folder;
  const std::string input = folder.write(
      "a.jsonl",
      R"({"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"},)"
      R"( {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]})"
      "\n"
      R"({"messages": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]})");
  const TokenizeCounts counts =
      tokenize_files({.tokenizer = "bytes", .output = folder.file("out"), .inputs = {input}, .chat = true});
  const std::string turns[] = {"<|system|>\nBe.\n<|user|>\nHi\n<|assistant|>\n",
                               "Yo",
                               "<|user|>\n?\n<|assistant|>\n",
                               "<|assistant|>\n",
                               "A",
                               "<|user|>\nB\n"};
  std::vector<std::int32_t> ids;
  std::string mask;
  const auto add = [&](const std::string& text, char counted, bool end) {
    for (const char c : text) ids.push_back(c);
    if (end) ids.push_back(256);
    mask.append(text.size() + (end ? 1 : 0), counted);
  };
  add(turns[0], 0, false), add(turns[1], 1, true), add(turns[2], 0, false), add("", 1, true);
  add(turns[3], 0, false), add(turns[4], 1, true), add(turns[5], 0, true);
  const TokenSet set = TokenSet::open(folder.file("out"), 258);
  std::vector<std::int32_t> found(static_cast<std::size_t>(set.tokens()));
  set.read(0, set.tokens(), found.data());
  EXPECT_EQ(found, ids);
  EXPECT_EQ(set.documents(), 2);
  EXPECT_TRUE(folder.read("out.mask") == mask);
  EXPECT_EQ(counts.targets, 6);
  // A set without a mask takes its place whole.
  tokenize_files({.tokenizer = "bytes", .output = folder.file("out"), .inputs = {folder.write("b.txt", "b")}});
  EXPECT_FALSE(std::filesystem::exists(folder.file("out.mask")));
}

TEST(TokenizeErrors, ConversationsThatAreNone) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& line) {
    return input_error_of([&] {
      tokenize_files({.tokenizer = "bytes",
                      .output = folder.file("out"),
                      .inputs = {folder.write("a.jsonl", line)},
                      .chat = true});
    });
  };
  EXPECT_TRUE(contains(error("{}"), "a.jsonl:1: found no list at \"messages\""));
  EXPECT_TRUE(contains(error(R"({"messages": [{"role": "user"}]})"), "without a text at \"content\""));
  EXPECT_TRUE(contains(error(R"({"messages": [{"role": "you", "content": ""}]})"), "found the role 'you'"));
  EXPECT_TRUE(
      contains(error(R"({"messages": [{"role": "user", "content": ""}]})"), "without a message of the assistant"));
  EXPECT_TRUE(contains(
      input_error_of([&] {
        tokenize_files(
            {.tokenizer = "bytes", .output = folder.file("out"), .inputs = {folder.write("a.txt", "x")}, .chat = true});
      }),
      "a.txt: found no .jsonl"));
}

}  // namespace
}  // namespace upcycle
