#include "data/streamed_text.h"

#include <algorithm>

namespace upcycle {
namespace {

// Where the last whole character of UTF-8 ends. Tokenizers that decode to characters put U+FFFD for what is not whole.
std::size_t whole_characters(const std::string& text) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::size_t end = text.size();
  while (end >= 3 && std::string_view(text).substr(end - 3, 3) == replacement) end -= 3;
  if (end < text.size()) return end;
  std::size_t first = end;  // of the last character
  while (first > 0 && end - first < 4 && (static_cast<unsigned char>(text[first - 1]) & 0xC0) == 0x80) --first;
  if (first == 0) return end;
  const auto lead = static_cast<unsigned char>(text[first - 1]);
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  return bytes > 1 && end - (first - 1) < bytes ? first - 1 : end;
}

std::vector<std::int32_t> known(const Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  std::vector<std::int32_t> found;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(found),
               [&](std::int32_t id) { return id < tokenizer.vocab_size(); });
  return found;
}

}  // namespace

std::string added_text(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt,
                       std::span<const std::int32_t> tokens) {
  std::vector<std::int32_t> all = known(tokenizer, prompt), added = known(tokenizer, tokens);
  const std::size_t before = tokenizer.decode(all).size();
  all.insert(all.end(), added.begin(), added.end());
  const std::string text = tokenizer.decode(all);
  return text.substr(std::min(before, text.size()));
}

StreamedText::StreamedText(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt)
    : tokenizer_(&tokenizer), ids_(known(tokenizer, prompt)), text_(tokenizer.decode(ids_)), shown_(text_.size()) {}

std::string StreamedText::add(std::int32_t id) {
  if (id >= tokenizer_->vocab_size()) return "";
  ids_.push_back(id);
  text_ = tokenizer_->decode(ids_);
  return until(whole_characters(text_));
}

std::string StreamedText::finish() { return until(text_.size()); }

std::string StreamedText::until(std::size_t end) {
  const std::size_t begin = std::min(shown_, text_.size());
  if (end <= begin) return "";
  shown_ = end;
  return text_.substr(begin, end - begin);
}

}  // namespace upcycle
