#include "data/text_reader.h"

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace upcycle {

bool Utf8Check::feed(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (missing_ == 0) {
      std::uint64_t eight;  // runs of ASCII, eight at a time
      while (i + 8 <= bytes.size() && (std::memcpy(&eight, bytes.data() + i, 8), (eight & 0x8080808080808080u) == 0))
        i += 8;
      if (i == bytes.size()) break;
    }
    const auto c = static_cast<unsigned char>(bytes[i]);
    if (missing_ > 0) {
      if (c < low_ || c > high_) return false;
      --missing_;
      low_ = 0x80, high_ = 0xbf;
    } else if (c >= 0x80) {
      if (c < 0xc2 || c > 0xf4) return false;
      missing_ = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
      if (c == 0xe0) low_ = 0xa0;   // overlong
      if (c == 0xed) high_ = 0x9f;  // surrogates
      if (c == 0xf0) low_ = 0x90;   // overlong
      if (c == 0xf4) high_ = 0x8f;  // past U+10FFFF
    }
  }
  return true;
}

TextReader::TextReader(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
  if (!file_) input_error("{}: cannot be read ({}); give text or .jsonl files", path, std::strerror(errno));
  fill();  // fails here for a folder
}

// Moves the unread rest to the front and reads until the buffer is full or the file ends.
void TextReader::fill() {
  const std::size_t kept = buffer_.size() - at_;
  buffer_.erase(0, at_);
  at_ = 0;
  buffer_.resize(std::size_t{1} << 18);
  const std::size_t n = std::fread(buffer_.data() + kept, 1, buffer_.size() - kept, file_.get());
  if (std::ferror(file_.get()))
    input_error("{}: cannot be read ({}); give text or .jsonl files", path_, std::strerror(errno));
  const int next = std::fgetc(file_.get());  // look ahead, so that the last piece knows that it ends a line
  end_of_file_ = next == EOF;
  if (!end_of_file_) std::ungetc(next, file_.get());
  buffer_.resize(kept + n);
  bytes_read_ += static_cast<std::int64_t>(n);
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
  piece.text = std::string_view(buffer_).substr(at_, (found ? newline : buffer_.size()) - at_);
  piece.newline = found;
  piece.starts_line = at_line_start_;
  piece.ends_line = found || end_of_file_;
  at_ = found ? newline + 1 : buffer_.size();
  at_line_start_ = line_done_ = found;
  if (!utf8_.feed(piece.text) || (piece.ends_line && !utf8_.complete()))
    input_error("{}:{}: is not valid UTF-8; convert the file to UTF-8", path_, line_);
  return true;
}

}  // namespace upcycle
