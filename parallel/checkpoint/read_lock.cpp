#include "parallel/checkpoint/read_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/manifest.h"

namespace upcycle {
namespace {

// 0, or errno.
int lock(const FileDescriptor& file, int how) {
  int result = 0;
  do {
    result = ::flock(file.get(), how | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

bool is_still_there(const FileDescriptor& file) {
  struct stat opened {
  }, named{};
  return ::fstat(file.get(), &opened) == 0 && ::stat(file.path().c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

ReadLock::ReadLock(const std::string& step_folder) : manifest_(open_regular_file(step_folder + "/" + manifest_name)) {
  // Between our opening and our lock it may have been removed.
  if (lock(manifest_, LOCK_SH) == EWOULDBLOCK || !is_still_there(manifest_))
    input_error("{}: is being removed by the run that keeps the newest steps (checkpoint.keep); read a newer one",
                step_folder);
}

std::optional<RemovalLock> RemovalLock::try_lock(const std::string& step_folder) {
  RemovalLock held;
  const std::string path = step_folder + "/" + manifest_name;
  if (!std::filesystem::exists(path)) return held;
  // For writing, where that is allowed: NFS gives no exclusive lock to a file that is open for reading.
  held.manifest_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC), path);
  if (!held.manifest_) held.manifest_ = open_regular_file(path);
  if (lock(held.manifest_, LOCK_EX) == EWOULDBLOCK) return std::nullopt;
  return held;
}

}  // namespace upcycle
