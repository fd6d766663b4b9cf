#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace upcycle {

// Writes a token set (token_set.h): streams .bin, keeps 4 bytes per document for .idx. All files are written as
// PREFIX.*.tmp and renamed in finish(), .idx last; without finish() they are removed. Ids are stored as uint16 when
// vocab_size < 65500, else int32, which is Megatron's rule. InputError: the files cannot be written.
class TokenSetWriter {
 public:
  // What a writer that was killed left on disk (save).
  struct Saved {
    std::int64_t tokens = 0, documents = 0;
  };
  struct Options {
    bool mask = false;  // with a loss mask
    Saved saved = {};   // goes on from it, which is_there
  };
  static bool is_there(const std::string& prefix, std::int64_t vocab_size, const Options& options);

  TokenSetWriter(const std::string& prefix, std::int64_t vocab_size) : TokenSetWriter(prefix, vocab_size, Options{}) {}
  TokenSetWriter(const std::string& prefix, std::int64_t vocab_size, const Options& options);
  ~TokenSetWriter();
  TokenSetWriter(const TokenSetWriter&) = delete;
  TokenSetWriter& operator=(const TokenSetWriter&) = delete;

  void append(std::span<const std::int32_t> ids);           // to the current document
  void append_mask(std::span<const std::uint8_t> counted);  // as many as ids: 1 a target, 0 not (Options::mask)
  void end_document();
  void drop_document();  // the open one, as if nothing of it had been appended
  Saved save();          // until finish(), a killed process leaves what whole documents hold so far
  void finish();         // once; no document may be open

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(sizes_.size()); }

 private:
  struct File;
  std::int64_t width() const { return wide_ ? 4 : 2; }
  std::string prefix_;
  std::int64_t vocab_size_ = 0, tokens_ = 0, open_tokens_ = 0;
  bool wide_ = false;  // int32
  std::vector<std::int32_t> sizes_;
  std::size_t sizes_saved_ = 0;
  std::unique_ptr<File> bin_, index_, mask_, sizes_file_;  // the last two: null where there is none
};

}  // namespace upcycle
