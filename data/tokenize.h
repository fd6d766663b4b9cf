#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/text_reader.h"

namespace upcycle {

struct TokenizeCounts {
  std::int64_t documents = 0, empty_documents = 0;  // empty ones (only white space) are dropped
  std::int64_t tokens = 0;                          // including end-of-document tokens
  std::int64_t text_bytes = 0;                      // of the documents that were kept
  std::int64_t bytes_read = 0, bytes_total = 0;     // of the input files, compressed where they are
  std::int64_t targets = 0;                         // of chat: tokens that count in the loss
  // Text that is not UTF-8: characters replaced, and the documents that had them, replaced or left out.
  std::int64_t invalid_characters = 0, invalid_documents = 0;
  std::int64_t kept_documents = 0;  // of them, made before this process by one that was killed
};

struct TokenizeOptions {
  std::string tokenizer = {};  // as open_tokenizer takes it
  std::string output = {};     // PREFIX of the token set
  // A .jsonl file has one document per line, at key `jsonl_key`; blank lines are skipped. Any other file is one
  // document or, with `doc_separator`, several, separated by lines that hold only that. The newline at the end of a
  // text document's last line is not part of it; all else is, byte for byte. Both may be compressed (.gz, .zst).
  std::vector<std::string> inputs = {};
  std::string doc_separator = {};  // "": none
  std::string jsonl_key = "text";
  InvalidUtf8 invalid_utf8 = InvalidUtf8::Error;
  bool chat = false;       // each line of .jsonl is a conversation (chat.h), and the set gets a loss mask
  int threads = 0;         // 0: one per core
  double save_every = 10;  // seconds after which what whole documents hold is kept, should this process be killed
  std::function<void(const TokenizeCounts&)> progress = {};  // called from time to time with the counts so far
};

// Text files to one token set, with an end-of-document token after each document. Memory is bounded (some MiB per
// thread) if documents have words separated by single spaces; a stretch of 64 MiB without one is refused. The same call
// after a killed one keeps what whole documents that one had written, and ends with the same bytes; where an input is a
// pipe it starts over. InputError names file and line; the output is then removed.
TokenizeCounts tokenize_files(const TokenizeOptions& options);

}  // namespace upcycle
