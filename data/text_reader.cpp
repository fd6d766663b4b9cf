#include "data/text_reader.h"

#include "core/error.h"
#include "data/utf8.h"

namespace upcycle {
namespace {
constexpr std::size_t kBuffer = std::size_t{1} << 18;
}

TextReader::TextReader(const std::string& path, InvalidUtf8 invalid, std::int64_t offset, std::int64_t line)
    : path_(path), file_(open_input(path)), invalid_(invalid), buffer_begins_(offset), line_(line) {
  if (offset > 0) file_->skip(offset);
  fill();  // fails here for a folder
}

std::int64_t TextReader::offset() const { return buffer_begins_ + static_cast<std::int64_t>(at_); }

// Moves the unread rest to the front and reads until the buffer is full or the file ends. A byte more than a piece may
// have is read, so that the last piece knows that it ends a line.
void TextReader::fill() {
  buffer_begins_ += static_cast<std::int64_t>(at_);
  buffer_.erase(0, at_);
  at_ = 0;
  const std::size_t kept = buffer_.size();
  buffer_.resize(kBuffer + 1);
  const std::size_t n = file_->read(buffer_.data() + kept, buffer_.size() - kept);
  end_of_file_ = kept + n < buffer_.size();
  buffer_.resize(kept + n);
}

bool TextReader::next(Piece& piece) {
  std::size_t newline = buffer_.find('\n', at_);
  if (newline == std::string::npos && !end_of_file_) {
    fill();
    newline = buffer_.find('\n', at_);
  }
  const bool found = newline != std::string::npos;
  if (line_done_) ++line_;
  if (at_ == buffer_.size()) return false;
  std::string_view text = std::string_view(buffer_).substr(at_, (found ? newline : buffer_.size()) - at_);
  piece.newline = found;
  piece.starts_line = at_line_start_;
  piece.ends_line = found || end_of_file_;
  if (!piece.ends_line) {  // keeps the byte more, and what is not a whole character yet
    text.remove_suffix(1);
    text.remove_suffix(unfinished_utf8(text));
  }
  at_ += text.size() + (found ? 1 : 0);
  at_line_start_ = line_done_ = found;
  piece.text = text;
  piece.invalid = 0;
  if (valid_utf8(text) == text.size()) return true;
  if (invalid_ == InvalidUtf8::Error)
    input_error(
        "{}:{}: is not valid UTF-8; convert the file to UTF-8 (tokenize --invalid-utf8 can also replace such text, or "
        "leave it out)",
        path_, line_);
  mended_ = replaced_utf8(text, piece.invalid);
  piece.text = mended_;
  return true;
}

}  // namespace upcycle
