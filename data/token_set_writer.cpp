#include "data/token_set_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/error.h"
#include "data/files.h"

namespace upcycle {

// One output file under its temporary name, locked so that two writers of one prefix can not mix; a file left by a
// killed writer is reused.
struct TokenSetWriter::File {
  std::string path, temporary;
  int fd = -1;
  std::vector<char> buffer;

  explicit File(std::string name) : path(std::move(name)), temporary(path + ".tmp") {
    fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) fail("cannot be created");
    struct stat opened {
    }, named{};
    // The other writer may have published or removed the file between our open and our lock.
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0 || ::fstat(fd, &opened) != 0 || ::stat(temporary.c_str(), &named) != 0 ||
        opened.st_ino != named.st_ino) {
      const int error = errno;
      ::close(fd);
      fd = -1;
      input_error("{}: is being written by another process ({}); wait for it or choose another output", temporary,
                  std::strerror(error));
    }
    buffer.reserve(std::size_t{1} << 20);
    if (::ftruncate(fd, 0) != 0) abandon("cannot be emptied");
  }
  ~File() { discard(); }

  void discard() {
    if (fd < 0) return;
    ::unlink(temporary.c_str());
    ::close(fd);
    fd = -1;
  }
  [[noreturn]] void fail(const char* what) const {
    input_error("{}: {} ({}); the output needs an existing, writable folder with room", temporary, what,
                std::strerror(errno));
  }
  [[noreturn]] void abandon(const char* what) {
    const int error = errno;
    discard();
    errno = error;
    fail(what);
  }
  void write(const void* data, std::size_t bytes) {
    if (buffer.size() + bytes > buffer.capacity()) flush();
    if (bytes > buffer.capacity()) return write_out(static_cast<const char*>(data), bytes);
    buffer.insert(buffer.end(), static_cast<const char*>(data), static_cast<const char*>(data) + bytes);
  }
  template <class T>
  void write(T value) {
    write(&value, sizeof value);
  }
  void flush() {
    write_out(buffer.data(), buffer.size());
    buffer.clear();
  }
  void write_out(const char* data, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t n = ::write(fd, data, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) abandon("cannot be written");
      data += n;
      bytes -= static_cast<std::size_t>(n);
    }
  }
  void sync() {
    flush();
    if (::fsync(fd) != 0) abandon("cannot be written");
  }
  void publish() {
    if (::rename(temporary.c_str(), path.c_str()) != 0) abandon("cannot be renamed");
    ::close(fd);
    fd = -1;
  }
};

TokenSetWriter::TokenSetWriter(const std::string& prefix, std::int64_t vocab_size)
    : prefix_(prefix), vocab_size_(vocab_size), wide_(vocab_size >= 65500) {
  UPCYCLE_CHECK(vocab_size > 0 && vocab_size <= std::numeric_limits<std::int32_t>::max(), "vocabulary of {}",
                vocab_size);
  bin_ = std::make_unique<File>(prefix + ".bin");
  index_ = std::make_unique<File>(prefix + ".idx");
}

TokenSetWriter::~TokenSetWriter() = default;

void TokenSetWriter::append(std::span<const std::int32_t> ids) {
  UPCYCLE_CHECK(bin_->fd >= 0, "token set {} is already closed", prefix_);
  for (const std::int32_t id : ids) {
    UPCYCLE_CHECK(id >= 0 && id < vocab_size_, "token id {} for a vocabulary of {}", id, vocab_size_);
    if (wide_)
      bin_->write(id);
    else
      bin_->write(static_cast<std::uint16_t>(id));
  }
  open_tokens_ += static_cast<std::int64_t>(ids.size());
  tokens_ += static_cast<std::int64_t>(ids.size());
}

void TokenSetWriter::end_document() {
  if (open_tokens_ > std::numeric_limits<std::int32_t>::max())
    input_error("{}: document {} has {} tokens, the format holds at most {} per document; split it", prefix_,
                documents(), open_tokens_, std::numeric_limits<std::int32_t>::max());
  sizes_.push_back(static_cast<std::int32_t>(open_tokens_));
  open_tokens_ = 0;
}

void TokenSetWriter::finish() {
  UPCYCLE_CHECK(bin_->fd >= 0 && open_tokens_ == 0, "token set {} is closed or its last document is open", prefix_);
  const std::int64_t width = wide_ ? 4 : 2;
  index_->write("MMIDIDX\0", 9);  // the terminator is its ninth byte
  index_->write<std::uint64_t>(1);
  index_->write<std::uint8_t>(wide_ ? 4 : 8);
  index_->write<std::uint64_t>(sizes_.size());
  index_->write<std::uint64_t>(sizes_.size() + 1);
  for (const std::int32_t size : sizes_) index_->write(size);
  std::int64_t pointer = 0;
  for (const std::int32_t size : sizes_) {
    index_->write(pointer);
    pointer += size * width;
  }
  for (std::int64_t d = 0; d <= documents(); ++d) index_->write(d);
  bin_->sync();
  index_->sync();
  // The old .idx is removed first and the new one appears last, so that an index never meets another set's tokens.
  if (::unlink(index_->path.c_str()) != 0 && errno != ENOENT) index_->abandon("cannot replace the old index");
  bin_->publish();
  index_->publish();
  fsync_directory(parent_folder(index_->path));
}

}  // namespace upcycle
