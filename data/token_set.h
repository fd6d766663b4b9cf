#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/mapped_file.h"

// Megatron-LM's indexed data set (megatron/core/datasets/indexed_dataset.py): PREFIX.bin holds the token ids of all
// sequences, PREFIX.idx, little-endian and unpadded:
//   9 bytes "MMIDIDX\0\0", u64 version 1, u8 dtype code, u64 sequences, u64 document indices (documents + 1),
//   i32 size of each sequence (tokens), i64 pointer of each (bytes into .bin), i64 document indices (sequences)
// and, in multimodal sets, i8 mode of each sequence (not used here).
// Ours alone is PREFIX.mask, which may be there: a byte for each token, 1 where it is to be predicted, 0 where it
// counts neither in a loss nor among its tokens (TokenSetWriter).
namespace upcycle {

class TokenSet {
 public:
  // Maps both files and checks every size, pointer and document index. InputError: a missing, truncated or foreign
  // file, a dtype that is not an integer, pointers past the end. `read` checks ids against `vocab_size`; by default any
  // id that fits int32 passes.
  static TokenSet open(const std::string& prefix, std::int64_t vocab_size = std::int64_t{1} << 31);

  const std::string& prefix() const { return prefix_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }
  // From here on the set is documents [begin, end) alone: its tokens and documents are counted from there.
  void keep_documents(std::int64_t begin, std::int64_t end);
  // Where each document starts, in tokens, and at last the set's size: document d is tokens [starts[d], starts[d + 1]).
  std::vector<std::int64_t> document_starts() const;

  // Copies tokens [first, first + count) to `out`. InputError if an id is negative or not below vocab_size, naming
  // file, position, id and vocabulary. Allocates nothing; may be called from several threads.
  void read(std::int64_t first, std::int64_t count, std::int32_t* out) const;

  bool has_mask() const { return mask_.data() != nullptr; }
  // Sets out[i] to -1 where token first + i is not to be predicted. InputError for a mask of other bytes than 0 and 1.
  void mask_targets(std::int64_t first, std::int64_t count, std::int32_t* out) const;

  // Checks ids in advance: all of them if the set has at most `most` tokens, else that many in pieces spread evenly,
  // which is enough to notice that another tokenizer made the set. InputError as for `read`.
  void check_ids(std::int64_t most = std::int64_t{1} << 24) const;

 private:
  std::int64_t start_of_document(std::int64_t document) const;  // in tokens of the files; one past the last too
  std::int64_t sequence_start(std::int64_t sequence) const;     // in tokens; for one past the last: the set's size
  std::int64_t size_of_sequence(std::int64_t sequence) const;
  std::int64_t pointer_of_sequence(std::int64_t sequence) const;
  void convert(const char* from, std::int64_t first, std::int64_t count, std::int32_t* out) const;

  std::string prefix_;
  MappedFile index_, bin_, mask_;
  int code_ = 0, width_ = 0;  // Megatron's dtype code, and the bytes per id
  std::int64_t vocab_size_ = 0, tokens_ = 0, sequences_ = 0, documents_ = 0;
  std::int64_t all_tokens_ = 0, first_token_ = 0, first_document_ = 0;  // of the files; where what is kept begins
  std::vector<std::int64_t> starts_;  // empty if the sequences are contiguous and in order in .bin
};

}  // namespace upcycle
