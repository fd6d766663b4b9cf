#include "launch/appended_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/log.h"

namespace upcycle {

AppendedFile::AppendedFile(std::string path, std::string records)
    : path_(std::move(path)), records_(std::move(records)) {}

AppendedFile::~AppendedFile() {
  if (missing_ > 0) log_warn("{}: {} {} are missing at its end", path_, missing_, records_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

int AppendedFile::open() {
  if (descriptor_ >= 0) return 0;
  // A run folder from elsewhere may hold a link to a file of ours under that name, or a pipe.
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) return errno;
  end_ = status.st_size;
  return 0;
}

int AppendedFile::try_append(std::string_view record) {
  if (const int code = open(); code != 0) return code;
  if (cut_ && ::ftruncate(descriptor_, end_) != 0) return errno;
  cut_ = false;
  for (std::string_view rest = record; !rest.empty();) {
    const ssize_t n = ::write(descriptor_, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int code = errno;
      cut_ = rest.size() < record.size() && ::ftruncate(descriptor_, end_) != 0;
      return code;
    }
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  end_ += static_cast<std::int64_t>(record.size());
  return 0;
}

void AppendedFile::append(std::string_view record) {
  if (const int code = try_append(record); code != 0) {
    if (missing_++ == 0)
      log_warn("{}: cannot write: {}; training goes on, and {} are missing there until it can be written again", path_,
               std::strerror(code), records_);
    return;
  }
  if (missing_ == 0) return;
  log_warn("{}: is written again; {} {} before the last are missing", path_, missing_, records_);
  missing_ = 0;
}

}  // namespace upcycle
