#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace upcycle {

// A file, or a pipe, as a stream of bytes; decompressed where its name ends with .gz or .zst. InputError names the file
// where it can not be read, is not compressed as its name says, or ends too early.
class InputFile {
 public:
  virtual ~InputFile() = default;
  virtual std::size_t read(char* out, std::size_t count) = 0;  // fewer than asked for only at the end
  virtual std::int64_t bytes_read() const = 0;                 // of the file itself
  // Passes over so many bytes of the stream; InputError if it has fewer.
  virtual void skip(std::int64_t count);

 protected:
  explicit InputFile(const std::string& path) : path_(path) {}
  std::string path_;
};

std::unique_ptr<InputFile> open_input(const std::string& path);

// The name without .gz or .zst.
std::string uncompressed_name(const std::string& path);

}  // namespace upcycle
