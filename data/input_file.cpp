#include "data/input_file.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"
#ifdef UPCYCLE_ZSTD
#include <zstd.h>
#endif

namespace upcycle {
namespace {

constexpr const char* kAdvice = "give text or .jsonl files";

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

class PlainFile final : public InputFile {
 public:
  explicit PlainFile(const std::string& path) : InputFile(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) fail();
  }
  std::size_t read(char* out, std::size_t count) override {
    const std::size_t n = std::fread(out, 1, count, file_.get());
    if (std::ferror(file_.get())) fail();
    bytes_read_ += static_cast<std::int64_t>(n);
    return n;
  }
  std::int64_t bytes_read() const override { return bytes_read_; }
  void skip(std::int64_t count) override {
    if (::fseeko(file_.get(), count, SEEK_SET) != 0) fail();
    bytes_read_ = count;
  }

 private:
  [[noreturn]] void fail() const { input_error("{}: cannot be read ({}); {}", path_, std::strerror(errno), kAdvice); }
  std::unique_ptr<std::FILE, Close> file_;
  std::int64_t bytes_read_ = 0;
};

class GzipFile final : public InputFile {
 public:
  explicit GzipFile(const std::string& path) : InputFile(path), file_(gzopen(path.c_str(), "rb")) {
    if (file_ == nullptr) input_error("{}: cannot be read ({}); {}", path, std::strerror(errno), kAdvice);
    gzbuffer(file_, 1 << 18);
  }
  ~GzipFile() override { gzclose(file_); }
  std::size_t read(char* out, std::size_t count) override {
    std::size_t done = 0;
    while (done < count) {
      const int n = gzread(file_, out + done, static_cast<unsigned>(std::min<std::size_t>(count - done, 1 << 24)));
      int error = Z_OK;
      const char* const said = gzerror(file_, &error);
      if (error == Z_ERRNO) input_error("{}: cannot be read ({}); {}", path_, std::strerror(errno), kAdvice);
      if (n < 0 || error == Z_BUF_ERROR)
        input_error("{}: is not whole gzip data ({}); make the file again", path_, said);
      if (n > 0 && gzdirect(file_) != 0)
        input_error("{}: is not gzip data, as its name says; rename or compress the file", path_);
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }
  std::int64_t bytes_read() const override { return gzoffset(file_); }

 private:
  gzFile file_;
};

#ifdef UPCYCLE_ZSTD
class ZstdFile final : public InputFile {
 public:
  explicit ZstdFile(const std::string& path)
      : InputFile(path), file_(path), stream_(ZSTD_createDStream()), compressed_(ZSTD_DStreamInSize()) {}
  ~ZstdFile() override { ZSTD_freeDStream(stream_); }
  std::size_t read(char* out, std::size_t count) override {
    ZSTD_outBuffer to{out, count, 0};
    while (to.pos < to.size) {
      if (from_.pos == from_.size && !flushes_) {
        from_ = {compressed_.data(), file_.read(compressed_.data(), compressed_.size()), 0};
        if (from_.size == 0) {
          if (left_ != 0) input_error("{}: is not whole zstd data: it ends inside a frame; make the file again", path_);
          break;
        }
      }
      const std::size_t before = to.pos;
      left_ = ZSTD_decompressStream(stream_, &to, &from_);  // 0: a frame is complete, and another may follow
      if (ZSTD_isError(left_))
        input_error("{}: is not zstd data ({}); make the file again", path_, ZSTD_getErrorName(left_));
      flushes_ = to.pos == to.size && to.pos > before && left_ != 0;  // it may hold more than there was room for
    }
    return to.pos;
  }
  std::int64_t bytes_read() const override { return file_.bytes_read(); }

 private:
  PlainFile file_;
  ZSTD_DStream* stream_;
  std::vector<char> compressed_;
  ZSTD_inBuffer from_{nullptr, 0, 0};
  std::size_t left_ = 0;
  bool flushes_ = false;
};
#endif

}  // namespace

void InputFile::skip(std::int64_t count) {
  std::vector<char> passed(1 << 16);
  while (count > 0) {
    const std::size_t n =
        read(passed.data(), static_cast<std::size_t>(std::min<std::int64_t>(count, std::ssize(passed))));
    if (n == 0) input_error("{}: ends {} bytes before where its reading stopped; start over", path_, count);
    count -= static_cast<std::int64_t>(n);
  }
}

std::unique_ptr<InputFile> open_input(const std::string& path) {
  if (path.ends_with(".gz")) return std::make_unique<GzipFile>(path);
  if (path.ends_with(".zst")) {
#ifdef UPCYCLE_ZSTD
    return std::make_unique<ZstdFile>(path);
#else
    input_error(
        "{}: this program was built without libzstd; run launch/install.sh build and launch/build.sh, or unpack "
        "the file with `unzstd`",
        path);
#endif
  }
  if (path.ends_with(".parquet"))
    input_error(
        "{}: Parquet is not read here: Debian has no library for it; launch/tokenize_hf.py reads it "
        "(launch/install.sh parquet), or make JSON lines: python3 -c \"import pyarrow.parquet as p, sys, json; "
        "[print(json.dumps(r)) for b in p.ParquetFile(sys.argv[1]).iter_batches(columns=['text']) for r in "
        "b.to_pylist()]\" FILE.parquet > FILE.jsonl",
        path);
  return std::make_unique<PlainFile>(path);
}

std::string uncompressed_name(const std::string& path) {
  for (const char* end : {".gz", ".zst"})
    if (path.ends_with(end)) return path.substr(0, path.size() - std::strlen(end));
  return path;
}

}  // namespace upcycle
