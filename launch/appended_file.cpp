#include "launch/appended_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/log.h"

namespace upcycle {
namespace {
constexpr std::size_t kMostWaiting = std::size_t{16} << 20;  // bytes
}

AppendedFile::AppendedFile(std::string path, std::string records)
    : path_(std::move(path)), records_(std::move(records)) {}

AppendedFile::~AppendedFile() {
  if (write_waiting() != 0)
    log_warn("{}: {} {} are missing at its end", path_, missing_ + static_cast<std::int64_t>(waiting_.size()),
             records_);
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

int AppendedFile::write_waiting() {
  for (; !waiting_.empty(); waiting_.pop_front()) {
    if (const int code = try_append(waiting_.front()); code != 0) return code;
    waiting_bytes_ -= waiting_.front().size();
  }
  return 0;
}

void AppendedFile::append(std::string_view record) {
  waiting_.emplace_back(record);
  waiting_bytes_ += record.size();
  if (const int code = write_waiting(); code != 0) {
    if (!std::exchange(failing_, true))
      log_warn("{}: cannot write: {}; training goes on, and {} wait in memory until it can be written again", path_,
               std::strerror(code), records_);
    for (; waiting_bytes_ > kMostWaiting; ++missing_) {
      waiting_bytes_ -= waiting_.front().size();
      waiting_.pop_front();
    }
    return;
  }
  if (!std::exchange(failing_, false)) return;
  log_warn("{}: is written again; {} {} are missing", path_, missing_ == 0 ? "no" : std::to_string(missing_), records_);
  missing_ = 0;
}

}  // namespace upcycle
