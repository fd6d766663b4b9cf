#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "core/error.h"

namespace upcycle {

// Files and folders, with every system call checked. What the user can mend (a missing file, no permission, a folder
// instead of a file) is an InputError; the rest (disk full, I/O error) is an Error.

// An open file descriptor, closed on destruction. Close errors matter only after writing: see close_checked.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  FileDescriptor(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return descriptor_; }
  const std::string& path() const { return path_; }
  explicit operator bool() const { return descriptor_ >= 0; }

  std::uint64_t size() const;  // bytes
  // Exactly `bytes` at `offset`; InputError if the file ends before. Thread-safe.
  void read_at(std::uint64_t offset, void* out, std::size_t bytes) const;
  // Reads `rows` runs of `width` bytes, contiguous in the file, to addresses `pitch` bytes apart in `out`.
  void read_rows_at(std::uint64_t offset, char* out, std::size_t rows, std::size_t width, std::size_t pitch) const;
  void write_at(std::uint64_t offset, const void* data, std::size_t bytes) const;
  void sync() const;
  void close_checked();  // network file systems report late write errors here

 private:
  int descriptor_ = -1;
  std::string path_;
};

FileDescriptor open_regular_file(const std::string& path);  // for reading; anything but a regular file is an InputError
FileDescriptor create_file(const std::string& path);        // for writing; an existing file is emptied

// The whole file, at most max_bytes of it (checked before more is read). Pipes are read too: for files that the user
// names. read_regular_text is for the files of a folder, which may come from elsewhere and hold a pipe without a
// writer: anything but a regular file is an InputError there.
std::string read_text(const std::string& path, std::size_t max_bytes);
std::string read_regular_text(const std::string& path, std::size_t max_bytes);

// Whether a name that stands in a file can only mean a file of that file's own folder, and can be printed: no slash,
// not
// "." or "..", no control characters, 1 to 255 bytes.
bool is_plain_file_name(const std::string& name);

// Readers see the old text or the new one, even after a crash: path.tmp, fsync, rename, fsync of the parent. One writer
// per path at a time.
void write_text_atomic(const std::string& path, const std::string& text);

void fsync_file(const std::string& path);
void fsync_directory(const std::string& path);
// The new name is there, but a folder could not be synced: it may be lost in a power cut.
struct RenamedNotSynced : Error {
  using Error::Error;
};
// rename(2), replacing a file at `to`, then fsync of `to`'s folder (and of `from`'s, if different): RenamedNotSynced
// where that fails, also by write_text_atomic.
void rename_durable(const std::string& from, const std::string& to);
std::string parent_folder(const std::string& path);  // "." for a bare name

void make_folder(const std::string& path);  // with parents; may already exist
// Copies a file into a folder under its own name and syncs it; overwrites an existing file.
void copy_file(const std::string& path, const std::string& folder);

// Removes a file or a folder with everything in it; links are removed, not followed. No error if absent.
void remove_tree(const std::string& path);

// Holds an flock on DIR/.lock during its lifetime; the kernel releases it however the process ends. Throws InputError
// naming the holder's pid and host. The file itself stays: removing it would let two processes lock different files of
// the same name.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  static std::optional<FolderLock> try_lock(const std::string& folder);  // null where another holds it
  ~FolderLock();
  FolderLock(FolderLock&&) noexcept = default;
  FolderLock& operator=(FolderLock&&) = delete;

 private:
  FolderLock() = default;
  std::string take(const std::string& folder);  // "", or who holds it
  FileDescriptor file_;
};

}  // namespace upcycle
