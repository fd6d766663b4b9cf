#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace upcycle {

// A tokenizer's file is a few megabytes; a larger one is none, and is not read into memory.
inline constexpr std::size_t tokenizer_bytes_max = std::size_t{256} << 20;

// Text to token ids and back. All members are const and may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Adds no begin- or end-of-document token; special tokens spelled out in the text are plain text. Sentencepiece
  // replaces invalid UTF-8.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  // The same of many texts, on so many threads.
  virtual std::vector<std::vector<std::int32_t>> encode_all(std::span<const std::string> texts,
                                                            std::size_t threads) const;
  // As encode, with the byte of the text at which each token begins. InputError where the tokenizer does not say it.
  virtual std::vector<std::int32_t> encode_with_begins(std::string_view text, std::vector<std::size_t>& begins) const;
  // Special tokens decode to nothing. InputError for an id outside the vocabulary.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int32_t eod_id() const = 0;  // end of document
  virtual std::int32_t bos_id() const = 0;  // -1: the vocabulary has none
  const std::string& name() const { return name_; }

  // Bytes of the text that `ids` decode to; summed over a document, decode(document).size() whenever the byte tokens
  // form valid UTF-8. Special tokens count 0, a byte token 1, and a word at the start of a document counts without the
  // space that encoding put before it. `at_start` says whether a document starts here and is updated, so that a long
  // stream can be counted in pieces; a document starts after each special token. InputError as for decode.
  virtual std::int64_t decoded_bytes(std::span<const std::int32_t> ids, bool& at_start) const = 0;

  // The last place where a document can be cut so that encode(first part) followed by encode(second part) equals
  // encode(text): text[0, end) and text[begin, size). Between them is at most the one space that encoding the second
  // part adds again. end 0: there is none.
  struct Cut {
    std::size_t end = 0, begin = 0;
  };
  virtual Cut last_cut(std::string_view text) const = 0;

 protected:
  std::string name_;
};

// `spec` is a sentencepiece .model file, a Hugging Face tokenizer.json (json_tokenizer.h), recognized by name or
// content, or "bytes": ids 0 to 255 are bytes, 256 ends a document, 257 begins one. InputError for anything else.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& spec);

}  // namespace upcycle
