#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace upcycle {

struct TokenizeCounts {
  std::int64_t documents = 0, empty_documents = 0;  // empty ones (nothing but white space) are dropped
  std::int64_t tokens = 0;                          // with the end-of-document tokens
  std::int64_t text_bytes = 0;                      // of the documents that were kept
  std::int64_t bytes_read = 0, bytes_total = 0;     // of the input files
};

struct TokenizeOptions {
  std::string tokenizer = {};  // as open_tokenizer takes it
  std::string output = {};     // PREFIX of the token set
  // A .jsonl file has one document a line, at key `jsonl_key`; blank lines are passed over. Any other file is one
  // document, or, with `doc_separator`, several between lines that hold nothing else. The newline that ends a text
  // document's last line is not part of the document; all else is, byte for byte.
  std::vector<std::string> inputs = {};
  std::string doc_separator = {};  // "": none
  std::string jsonl_key = "text";
  int threads = 0;                                           // 0: one a core
  std::function<void(const TokenizeCounts&)> progress = {};  // called from time to time with what is done so far
};

// Text files to one token set, an end-of-document token after each document. Memory stays bounded (some MiB a thread)
// while documents have words with single spaces between them; a stretch of 64 MiB without one is refused. InputError
// names file and line of what cannot be used; nothing is left behind then.
TokenizeCounts tokenize_files(const TokenizeOptions& options);

}  // namespace upcycle
