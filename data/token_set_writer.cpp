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
namespace {
bool is_wide(std::int64_t vocab_size) { return vocab_size >= 65500; }
}  // namespace

// One output file under its temporary name, locked so that two writers of one prefix can not mix; a file left by a
// killed writer is reused.
struct TokenSetWriter::File {
  std::string path, temporary;
  int fd = -1;
  std::vector<char> buffer;

  // Keeps the first `kept` bytes of what a killed writer left.
  explicit File(std::string name, std::int64_t kept = 0) : path(std::move(name)), temporary(path + ".tmp") {
    make_folder(parent_folder(path));
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
    if (::ftruncate(fd, kept) != 0 || ::lseek(fd, kept, SEEK_SET) != kept) abandon("cannot be emptied");
  }
  ~File() { discard(); }

  void discard() {
    if (fd < 0) return;
    ::unlink(temporary.c_str());
    ::close(fd);
    fd = -1;
  }
  [[noreturn]] void fail(const char* what) const {
    input_error("{}: {} ({}); the output needs a writable folder with room", temporary, what, std::strerror(errno));
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
  // Takes back the last bytes written.
  void take_back(std::int64_t bytes) {
    flush();
    const off_t end = ::lseek(fd, 0, SEEK_CUR) - bytes;
    if (::ftruncate(fd, end) != 0 || ::lseek(fd, end, SEEK_SET) != end) abandon("cannot be shortened");
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

bool TokenSetWriter::is_there(const std::string& prefix, std::int64_t vocab_size, const Options& o) {
  const auto has = [&](const char* file, std::int64_t bytes) {
    struct stat found {};
    return ::stat((prefix + file).c_str(), &found) == 0 && found.st_size >= bytes;
  };
  return has(".bin.tmp", o.saved.tokens * (is_wide(vocab_size) ? 4 : 2)) && has(".sizes.tmp", 4 * o.saved.documents) &&
         (!o.mask || has(".mask.tmp", o.saved.tokens));
}

TokenSetWriter::TokenSetWriter(const std::string& prefix, std::int64_t vocab_size, const Options& options)
    : prefix_(prefix), vocab_size_(vocab_size), tokens_(options.saved.tokens), wide_(is_wide(vocab_size)) {
  UPCYCLE_CHECK(vocab_size > 0 && vocab_size <= std::numeric_limits<std::int32_t>::max(), "vocabulary of {}",
                vocab_size);
  const Saved& saved = options.saved;
  bin_ = std::make_unique<File>(prefix + ".bin", saved.tokens * width());
  index_ = std::make_unique<File>(prefix + ".idx");
  if (options.mask) mask_ = std::make_unique<File>(prefix + ".mask", saved.tokens);
  if (saved.documents == 0) return;
  const std::string sizes = read_text(prefix + ".sizes.tmp", std::size_t{1} << 40);
  sizes_.resize(static_cast<std::size_t>(saved.documents));
  UPCYCLE_CHECK(sizes.size() >= sizes_.size() * 4, "{}.sizes.tmp has {} bytes", prefix, sizes.size());
  std::memcpy(sizes_.data(), sizes.data(), sizes_.size() * 4);
  sizes_file_ = std::make_unique<File>(prefix + ".sizes", 4 * saved.documents);
  sizes_saved_ = sizes_.size();
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

void TokenSetWriter::append_mask(std::span<const std::uint8_t> counted) {
  UPCYCLE_CHECK(mask_ != nullptr, "token set {} has no loss mask", prefix_);
  mask_->write(counted.data(), counted.size());
}

void TokenSetWriter::drop_document() {
  if (open_tokens_ == 0) return;
  bin_->take_back(open_tokens_ * width());
  if (mask_ != nullptr) mask_->take_back(open_tokens_);
  tokens_ -= open_tokens_;
  open_tokens_ = 0;
}

TokenSetWriter::Saved TokenSetWriter::save() {
  if (sizes_file_ == nullptr) sizes_file_ = std::make_unique<File>(prefix_ + ".sizes");
  sizes_file_->write(sizes_.data() + sizes_saved_, 4 * (sizes_.size() - sizes_saved_));
  sizes_saved_ = sizes_.size();
  for (File* file : {bin_.get(), mask_.get(), sizes_file_.get()})
    if (file != nullptr) file->sync();
  return {tokens_ - open_tokens_, documents()};
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
  index_->write("MMIDIDX\0", 9);  // the terminator is its ninth byte
  index_->write<std::uint64_t>(1);
  index_->write<std::uint8_t>(wide_ ? 4 : 8);
  index_->write<std::uint64_t>(sizes_.size());
  index_->write<std::uint64_t>(sizes_.size() + 1);
  for (const std::int32_t size : sizes_) index_->write(size);
  std::int64_t pointer = 0;
  for (const std::int32_t size : sizes_) {
    index_->write(pointer);
    pointer += size * width();
  }
  for (std::int64_t d = 0; d <= documents(); ++d) index_->write(d);
  if (mask_ != nullptr) mask_->sync();
  bin_->sync();
  index_->sync();
  // The old .idx is removed first and the new one appears last, so that an index never meets another set's tokens.
  if (::unlink(index_->path.c_str()) != 0 && errno != ENOENT) index_->abandon("cannot replace the old index");
  const std::string old_mask = prefix_ + ".mask";
  if (mask_ != nullptr)
    mask_->publish();
  else if (::unlink(old_mask.c_str()) != 0 && errno != ENOENT)
    index_->abandon("cannot remove the old loss mask");
  bin_->publish();
  index_->publish();
  sizes_file_.reset();
  fsync_directory(parent_folder(index_->path));
}

}  // namespace upcycle
