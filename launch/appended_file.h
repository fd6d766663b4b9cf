#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace upcycle {

// A file to which records are appended, each whole and readable at once, by one process at a time. Where one can not be
// written (a full disk, a quota) the caller goes on: that is said once, and how many are missing once it works again,
// or at the end. Nothing of a record that was cut stays.
class AppendedFile {
 public:
  // `records`: what they are called in messages, e.g. "lines". The file is opened, or made, by the first append.
  AppendedFile(std::string path, std::string records);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  // Opens it now: 0, or why that can not be done (errno).
  int open();
  void append(std::string_view record);

 private:
  int try_append(std::string_view record);  // 0 or errno
  std::string path_, records_;
  int descriptor_ = -1;
  std::int64_t end_ = 0;  // bytes of whole records
  bool cut_ = false;      // more is there, which could not be removed
  std::int64_t missing_ = 0;
};

}  // namespace upcycle
