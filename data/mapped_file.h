#pragma once
#include <cstddef>
#include <string>

namespace upcycle {

// A file mapped read-only. An empty file maps to null with size 0. The file must not shrink while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws InputError naming the path if it can not be opened or is not a regular file; `hint` says what to do.
  MappedFile(std::string path, const std::string& hint);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  std::size_t size() const { return size_; }  // bytes
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace upcycle
