#include "data/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "core/progress.h"

namespace upcycle {
namespace {

bool user_can_mend(int code) {
  switch (code) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case EISDIR:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTEMPTY:
    case EEXIST:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void fail(const std::string& path, const char* what, int code) {
  if (user_can_mend(code)) input_error("{}: cannot {}: {}", path, what, std::strerror(code));
  throw_error(__FILE__, __LINE__, what, fmt::format("{}: cannot {}: {}", path, what, std::strerror(code)));
}

int open_checked(const std::string& path, int flags, const char* what) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) fail(path, what, errno);
  return descriptor;
}

// Linux transfers at most 2^31 - 4096 bytes per call.
constexpr std::size_t max_transfer = std::size_t{1} << 30;

void sync_path(const std::string& path, int flags) {
  FileDescriptor(open_checked(path, O_RDONLY | flags, "open for fsync"), path).sync();
}

std::string host_name() {
  char name[256] = {};
  UPCYCLE_CHECK(gethostname(name, sizeof name - 1) == 0, "gethostname: {}", std::strerror(errno));
  return name;
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

std::uint64_t FileDescriptor::size() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) fail(path_, "read the size", errno);
  return static_cast<std::uint64_t>(status.st_size);
}

void FileDescriptor::read_at(std::uint64_t offset, void* out, std::size_t bytes) const {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t n = ::pread(descriptor_, to, std::min(bytes, max_transfer), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "read", errno);
    if (n == 0) input_error("{}: ends at byte {}, expected {} bytes more; the file is truncated", path_, offset, bytes);
    made_progress();
    to += n;
    offset += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
}

void FileDescriptor::read_rows_at(std::uint64_t offset, char* out, std::size_t rows, std::size_t width,
                                  std::size_t pitch) const {
  if (width == pitch) return read_at(offset, out, rows * width);
  std::array<iovec, 256> parts;
  for (std::size_t row = 0; row < rows;) {
    const std::size_t n = std::min(parts.size(), rows - row);
    for (std::size_t i = 0; i < n; ++i) parts[i] = {out + (row + i) * pitch, width};
    const ssize_t read = ::preadv(descriptor_, parts.data(), static_cast<int>(n), static_cast<off_t>(offset));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) fail(path_, "read", errno);
    made_progress();
    std::size_t whole = static_cast<std::size_t>(read) / width;
    if (whole < n) {  // a short read: read the rest of the row in which it ended
      read_at(offset + whole * width, out + (row + whole) * pitch, width);
      ++whole;
    }
    row += whole;
    offset += whole * width;
  }
}

void FileDescriptor::write_at(std::uint64_t offset, const void* data, std::size_t bytes) const {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(descriptor_, from, std::min(bytes, max_transfer), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "write", errno);
    from += n;
    offset += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
}

void FileDescriptor::sync() const {
  if (::fsync(descriptor_) != 0) fail(path_, "fsync", errno);
}

void FileDescriptor::close_checked() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0) fail(path_, "close", errno);
}

FileDescriptor open_regular_file(const std::string& path) {
  // O_NONBLOCK: opening a pipe must not wait for its writer before we can refuse it.
  FileDescriptor file(open_checked(path, O_RDONLY | O_NONBLOCK, "open"), path);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail(path, "read the status", errno);
  if (!S_ISREG(status.st_mode))
    input_error("{}: found {}, expected a regular file", path, S_ISDIR(status.st_mode) ? "a folder" : "a special file");
  return file;
}

FileDescriptor create_file(const std::string& path) {
  return {open_checked(path, O_RDWR | O_CREAT | O_TRUNC, "create"), path};
}

namespace {
std::string read_all(const FileDescriptor& file, std::size_t max_bytes) {
  const std::string& path = file.path();
  std::string text;
  char block[65536];
  while (true) {
    const ssize_t n = ::read(file.get(), block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "read", errno);
    if (n == 0) return text;
    if (static_cast<std::size_t>(n) > max_bytes - text.size())
      input_error("{}: found more than {} bytes, expected at most that; is it the right file?", path, max_bytes);
    text.append(block, static_cast<std::size_t>(n));
  }
}
}  // namespace

std::string read_text(const std::string& path, std::size_t max_bytes) {
  return read_all({open_checked(path, O_RDONLY, "open"), path}, max_bytes);
}

std::string read_regular_text(const std::string& path, std::size_t max_bytes) {
  return read_all(open_regular_file(path), max_bytes);
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 0x7f || c == '/'; });
}

void write_text_atomic(const std::string& path, const std::string& text) {
  const std::string aside = path + ".tmp";
  try {
    // Not through a link that a folder from elsewhere holds under that name: its file would be emptied.
    FileDescriptor file(open_checked(aside, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, "create"), aside);
    file.write_at(0, text.data(), text.size());
    file.sync();
    file.close_checked();
    rename_durable(aside, path);
  } catch (...) {
    ::unlink(aside.c_str());
    throw;
  }
}

void fsync_file(const std::string& path) { sync_path(path, 0); }
void fsync_directory(const std::string& path) { sync_path(path, O_DIRECTORY); }

void rename_durable(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail(to, "rename a finished file into place", errno);
  const std::string folder = parent_folder(to), other = parent_folder(from);
  try {
    fsync_directory(folder);
    if (other != folder) fsync_directory(other);
  } catch (const Error& e) {
    throw RenamedNotSynced(e.what());
  }
}

std::string parent_folder(const std::string& path) {
  std::filesystem::path p(path);
  if (!p.has_filename()) p = p.parent_path();  // "a/b/" names a/b
  const std::string parent = p.parent_path().string();
  return parent.empty() ? "." : parent;
}

namespace {
// `asked`: the path that the user gave; `path` is a parent of it, or the same.
void make_part(const std::string& path, const std::string& asked) {
  if (!path.empty() && !std::filesystem::exists(path) && parent_folder(path) != path)
    make_part(parent_folder(path), asked);
  std::error_code code;
  // No error if it exists, even if several ranks make it at once.
  const bool made = std::filesystem::create_directory(path, code);
  if (!std::filesystem::is_directory(path))
    input_error("{}: cannot make the folder{}: {}; choose another name", asked,
                path == asked ? "" : fmt::format(" {}", path),
                std::filesystem::exists(path) ? "a file bears that name" : code.message());
  if (made) fsync_directory(parent_folder(path));  // else a crash could lose the folder and everything in it
}
}  // namespace

void make_folder(const std::string& path) { make_part(path, path); }

void copy_file(const std::string& path, const std::string& folder) {
  const FileDescriptor from = open_regular_file(path);
  FileDescriptor to = create_file(folder + "/" + std::filesystem::path(path).filename().string());
  std::vector<char> block(std::size_t{1} << 20);
  for (std::uint64_t at = 0, size = from.size(); at < size;) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), size - at));
    from.read_at(at, block.data(), n);
    to.write_at(at, block.data(), n);
    at += n;
  }
  to.sync();
  to.close_checked();
}

void remove_tree(const std::string& path) {
  UPCYCLE_CHECK(std::filesystem::path(path).has_relative_path(), "remove_tree of '{}'", path);
  std::error_code code;
  if (std::filesystem::is_directory(std::filesystem::symlink_status(path, code)))
    for (const auto& entry : std::filesystem::directory_iterator(path, code)) {
      std::filesystem::remove_all(entry.path(), code);  // what could not be removed is reported below
      made_progress();
    }
  std::filesystem::remove_all(path, code);
  // ENOTDIR: its parent is a file, so there is no such tree.
  if (code && code != std::errc::not_a_directory) fail(path, "remove", code.value());
}

FolderLock::FolderLock(const std::string& folder) {
  if (const std::string holder = take(folder); !holder.empty())
    input_error("{}: in use by {}; wait until it ends, or choose another folder", folder, holder);
}

std::optional<FolderLock> FolderLock::try_lock(const std::string& folder) {
  FolderLock lock;
  if (!lock.take(folder).empty()) return std::nullopt;
  return lock;
}

std::string FolderLock::take(const std::string& folder) {
  const std::string path = folder + "/.lock";
  FileDescriptor file(open_checked(path, O_RDWR | O_CREAT | O_NOFOLLOW, "open the lock"), path);  // it is emptied
  int result = 0;
  do {
    result = ::flock(file.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) {
    char text[400] = {};
    const ssize_t n = ::pread(file.get(), text, sizeof text - 1, 0);
    std::string holder(text, n > 0 ? static_cast<std::size_t>(n) : 0);
    holder.erase(std::find(holder.begin(), holder.end(), '\n'), holder.end());
    return holder.empty() ? "another process" : holder;
  }
  if (result != 0)
    input_error("{}: cannot lock: {}; choose a folder on a file system with flock", folder, std::strerror(errno));
  if (::ftruncate(file.get(), 0) != 0) fail(path, "empty the lock", errno);
  const std::string holder = fmt::format("pid {} on host {}\n", ::getpid(), host_name());
  file.write_at(0, holder.data(), holder.size());
  file_ = std::move(file);
  return "";
}

FolderLock::~FolderLock() {
  // The next holder must not read our name between its flock and its write.
  if (file_ && ::ftruncate(file_.get(), 0) != 0) return;
}

}  // namespace upcycle
