#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace upcycle {

// Writes a token set (token_set.h): streams .bin, keeps 4 bytes per document for .idx. Both files are written as
// PREFIX.{bin,idx}.tmp and renamed in finish(), .idx last; without finish() they are removed. Ids are stored as uint16
// when vocab_size < 65500, else int32, which is Megatron's rule. InputError: the files cannot be written.
class TokenSetWriter {
 public:
  TokenSetWriter(const std::string& prefix, std::int64_t vocab_size);
  ~TokenSetWriter();
  TokenSetWriter(const TokenSetWriter&) = delete;
  TokenSetWriter& operator=(const TokenSetWriter&) = delete;

  void append(std::span<const std::int32_t> ids);  // to the current document
  void end_document();
  void finish();  // once; no document may be open

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(sizes_.size()); }

 private:
  struct File;
  std::string prefix_;
  std::int64_t vocab_size_ = 0, tokens_ = 0, open_tokens_ = 0;
  bool wide_ = false;  // int32
  std::vector<std::int32_t> sizes_;
  std::unique_ptr<File> bin_, index_;
};

}  // namespace upcycle
