#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace upcycle {

// A file to which records are appended, each whole and readable at once, by one process at a time. Where one can not be
// written (a full disk, a quota) the caller goes on: that is said once, and the record and those after it wait in
// memory, 16 MiB of them, until it works again; how many are missing is said then, or at the end. Nothing of a record
// that was cut stays.
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
  int write_waiting();                      // 0 or errno
  std::string path_, records_;
  int descriptor_ = -1;
  std::int64_t end_ = 0;             // bytes of whole records
  bool cut_ = false;                 // more is there, which could not be removed
  std::deque<std::string> waiting_;  // oldest first
  std::size_t waiting_bytes_ = 0;
  bool failing_ = false;
  std::int64_t missing_ = 0;  // that had to make room for later ones
};

}  // namespace upcycle
