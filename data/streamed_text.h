#pragma once
#include "data/tokenizer.h"

namespace upcycle {

// Ids that the tokenizer does not know have no text here: models' vocabularies are often padded beyond it.

// The text that tokens add to a prompt's.
std::string added_text(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt,
                       std::span<const std::int32_t> tokens);

// The text that a growing sequence of tokens adds to a prompt, in pieces that end between characters: a token may end
// inside one.
class StreamedText {
 public:
  StreamedText(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt);
  std::string add(std::int32_t id);  // what can be shown now, perhaps nothing
  std::string finish();              // the rest
 private:
  std::string until(std::size_t end);

  const Tokenizer* tokenizer_;
  std::vector<std::int32_t> ids_;
  std::string text_;
  std::size_t shown_;  // bytes of text_
};

}  // namespace upcycle
