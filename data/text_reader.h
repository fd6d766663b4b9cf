#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "data/input_file.h"

namespace upcycle {

// What becomes of text that is not UTF-8: it ends the reading with an InputError, each broken character becomes U+FFFD,
// or its document is left out.
enum class InvalidUtf8 : std::uint8_t { Error, Replace, Skip };

// Reads a text file line by line with bounded memory: only lines longer than 256 KiB come in several pieces, which end
// between characters. InputError names file and line of read errors and invalid UTF-8.
class TextReader {
 public:
  struct Piece {
    std::string_view text;  // without the newline; valid until the next call
    bool starts_line = false, ends_line = false;
    bool newline = false;      // the line ended with one, not with the file
    std::int64_t invalid = 0;  // broken characters, under Replace and Skip
  };

  // Begins at byte `offset` of the (decompressed) text, which begins line `line`.
  explicit TextReader(const std::string& path, InvalidUtf8 invalid = InvalidUtf8::Error, std::int64_t offset = 0,
                      std::int64_t line = 1);
  bool next(Piece& piece);  // false at the end of the file

  const std::string& path() const { return path_; }
  std::int64_t line() const { return line_; }  // of the last piece, from 1
  std::int64_t offset() const;                 // in the text, of what the next piece begins with
  std::int64_t bytes_read() const { return file_->bytes_read(); }

 private:
  void fill();

  std::string path_, buffer_, mended_;
  std::unique_ptr<InputFile> file_;
  InvalidUtf8 invalid_;
  std::size_t at_ = 0;              // in buffer_: the first byte not yet returned
  std::int64_t buffer_begins_ = 0;  // in the text
  std::int64_t line_ = 1;
  bool line_done_ = false, at_line_start_ = true, end_of_file_ = false;
};

}  // namespace upcycle
