#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace upcycle {

MappedFile::MappedFile(std::string path, const std::string& hint) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe must not wait for its writer before we can refuse it.
  const int fd = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) input_error("{}: cannot be read ({}); {}", path_, std::strerror(errno), hint);
  struct stat status {};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    input_error("{}: is not a regular file; {}", path_, hint);
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* const mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    if (mapped == MAP_FAILED) {
      ::close(fd);
      input_error("{}: cannot be mapped into memory ({}); {}", path_, std::strerror(error), hint);
    }
    data_ = static_cast<const char*>(mapped);
  }
  ::close(fd);  // the mapping keeps the file
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace upcycle
