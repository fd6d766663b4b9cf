#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace upcycle {

// Checks UTF-8 (RFC 3629: no overlong forms, surrogates or code points past U+10FFFF) fed in pieces.
class Utf8Check {
 public:
  bool feed(std::string_view bytes);               // false: invalid
  bool complete() const { return missing_ == 0; }  // not inside a character

 private:
  int missing_ = 0;                         // continuation bytes still expected
  unsigned char low_ = 0x80, high_ = 0xbf;  // range of the next one
};

// Reads a text file line by line with bounded memory: only lines longer than 256 KiB come in several pieces. InputError
// names file and line of read errors and invalid UTF-8.
class TextReader {
 public:
  struct Piece {
    std::string_view text;  // without the newline; valid until the next call
    bool starts_line = false, ends_line = false;
    bool newline = false;  // the line ended with one, not with the file
  };

  explicit TextReader(const std::string& path);
  bool next(Piece& piece);  // false at the end of the file

  const std::string& path() const { return path_; }
  std::int64_t line() const { return line_; }  // of the last piece, from 1
  std::int64_t bytes_read() const { return bytes_read_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void fill();

  std::string path_, buffer_;
  std::unique_ptr<std::FILE, Close> file_;
  std::size_t at_ = 0;  // in buffer_: the first byte not yet returned
  std::int64_t line_ = 1, bytes_read_ = 0;
  bool line_done_ = false, at_line_start_ = true, end_of_file_ = false;
  Utf8Check utf8_;
};

}  // namespace upcycle
