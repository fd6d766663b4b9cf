#include "data/token_set.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "core/progress.h"

namespace upcycle {
namespace {

static_assert(std::endian::native == std::endian::little, "token sets are little-endian files");

constexpr char magic[] = "MMIDIDX\0";  // nine bytes with the terminator
constexpr std::size_t magic_size = 9, header_size = magic_size + 8 + 1 + 8 + 8;
constexpr std::int64_t tokens_max = std::int64_t{1} << 56;  // times eight bytes is below 2^63
constexpr std::int64_t progress_sequences = 1 << 16;        // checked between two calls of made_progress()

// The arrays of .idx start at byte 34, so nothing in it is aligned.
template <class T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

int width_of_code(int code) {
  switch (code) {
    case 1:
    case 2:
      return 1;
    case 3:
    case 8:
      return 2;
    case 4:
      return 4;
    case 5:
      return 8;
    default:
      return 0;
  }
}

// Calls f with a value of the stored type.
template <class F>
auto with_stored_type(int code, F&& f) {
  switch (code) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::int8_t{});
    case 3:
      return f(std::int16_t{});
    case 4:
      return f(std::int32_t{});
    case 5:
      return f(std::int64_t{});
    default:
      return f(std::uint16_t{});
  }
}

}  // namespace

TokenSet TokenSet::open(const std::string& prefix, std::int64_t vocab_size) {
  UPCYCLE_CHECK(vocab_size > 0, "vocabulary of {}", vocab_size);
  const std::string hint = fmt::format(
      "a token set is {0}.bin and {0}.idx: give the prefix without .bin or .idx, or make it with `upcycle tokenize`",
      prefix);
  TokenSet set;
  set.prefix_ = prefix;
  set.vocab_size_ = std::min(vocab_size, std::int64_t{1} << 31);
  set.index_ = MappedFile(prefix + ".idx", hint);
  set.bin_ = MappedFile(prefix + ".bin", hint);
  const std::string& name = set.index_.path();
  const char* const index = set.index_.data();
  const std::size_t size = set.index_.size();

  if (size < header_size)
    input_error("{}: truncated: found {} bytes, the header alone has {}; make the token set again", name, size,
                header_size);
  if (std::memcmp(index, magic, magic_size) != 0)
    input_error("{}: not a token set index: its first bytes are not MMIDIDX; {}", name, hint);
  if (const auto version = load<std::uint64_t>(index + 9); version != 1)
    input_error("{}: version is {}, expected 1; make the token set again", name, version);
  set.code_ = load<std::uint8_t>(index + 17);
  set.width_ = width_of_code(set.code_);
  if (set.width_ == 0)
    input_error(
        "{}: dtype code is {}{}, expected an integer type (1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16)", name,
        set.code_,
        set.code_ == 6   ? " (float64)"
        : set.code_ == 7 ? " (float32)"
                         : "");

  const auto sequences = load<std::uint64_t>(index + 18), indices = load<std::uint64_t>(index + 26);
  const std::uint64_t body = size - header_size;
  // First compare the counts with the file size, so that the products below can not overflow.
  const bool fits = sequences <= body / 12 && indices <= body / 8 && 12 * sequences + 8 * indices <= body;
  if (!fits)
    input_error("{}: truncated: {} bytes cannot hold {} sequences and {} document indices; make the token set again",
                name, size, sequences, indices);
  const std::uint64_t rest = body - 12 * sequences - 8 * indices;
  if (rest != 0 && rest != sequences)  // a multimodal set has one byte per sequence here
    input_error("{}: {} bytes too many for {} sequences and {} document indices; make the token set again", name, rest,
                sequences, indices);
  set.sequences_ = static_cast<std::int64_t>(sequences);

  const auto bin_size = static_cast<std::int64_t>(set.bin_.size());
  bool contiguous = true;
  std::int64_t end_of_data = 0;
  for (std::int64_t s = 0; s < set.sequences_; ++s) {
    const std::int64_t count = set.size_of_sequence(s), pointer = set.pointer_of_sequence(s);
    if (s % progress_sequences == 0) made_progress();
    if (count < 0) input_error("{}: sequence {} has size {}; make the token set again", name, s, count);
    const std::int64_t bytes = count * set.width_;
    if (pointer < 0 || pointer > bin_size || bytes > bin_size - pointer)
      input_error(
          "{}: sequence {} is {} bytes at byte {} of {}, which has {}: one of the two files is truncated or of another "
          "token set",
          name, s, bytes, pointer, set.bin_.path(), bin_size);
    contiguous = contiguous && pointer == set.tokens_ * set.width_;
    end_of_data = std::max(end_of_data, pointer + bytes);
    set.tokens_ += count;
    // Sequences may share bytes, so that a file of a terabyte could name more than can be counted.
    if (set.tokens_ > tokens_max)
      input_error("{}: the sequences up to {} have more than {} tokens; make the token set again", name, s, tokens_max);
  }
  if (end_of_data != bin_size)
    input_error("{}: has {} bytes, {} describes {}: the two files are of different token sets", set.bin_.path(),
                bin_size, name, end_of_data);
  if (!contiguous) {
    set.starts_.reserve(sequences + 1);
    std::int64_t start = 0;
    for (std::int64_t s = 0; s < set.sequences_; ++s) {
      set.starts_.push_back(start);
      start += set.size_of_sequence(s);
    }
    set.starts_.push_back(start);
  }

  const char* const document_indices = index + header_size + 12 * sequences;
  std::int64_t previous = 0;
  for (std::uint64_t d = 0; d < indices; ++d) {
    const auto value = load<std::int64_t>(document_indices + 8 * d);
    if ((d == 0 && value != 0) || value < previous || value > set.sequences_)
      input_error("{}: document index {} is {}, expected {}; make the token set again", name, d, value,
                  d == 0 ? std::string("0") : fmt::format("{} to {}", previous, set.sequences_));
    previous = value;
  }
  if (indices == 0 || previous != set.sequences_)
    input_error("{}: the {} document indices end at sequence {}, expected {}; make the token set again", name, indices,
                previous, set.sequences_);
  set.documents_ = static_cast<std::int64_t>(indices) - 1;
  set.all_tokens_ = set.tokens_;
  if (const std::string mask = prefix + ".mask"; std::filesystem::exists(mask)) {
    set.mask_ = MappedFile(mask, hint);
    if (static_cast<std::int64_t>(set.mask_.size()) != set.tokens_)
      input_error("{}: has {} bytes, {} has {} tokens: it is of another token set; remove it, or make the set again",
                  mask, set.mask_.size(), set.bin_.path(), set.tokens_);
  }
  return set;
}

std::int64_t TokenSet::size_of_sequence(std::int64_t sequence) const {
  return load<std::int32_t>(index_.data() + header_size + 4 * sequence);
}

std::int64_t TokenSet::pointer_of_sequence(std::int64_t sequence) const {
  return load<std::int64_t>(index_.data() + header_size + 4 * sequences_ + 8 * sequence);
}

std::int64_t TokenSet::sequence_start(std::int64_t sequence) const {
  if (sequence == sequences_) return all_tokens_;
  return starts_.empty() ? pointer_of_sequence(sequence) / width_ : starts_[static_cast<std::size_t>(sequence)];
}

std::int64_t TokenSet::start_of_document(std::int64_t document) const {
  return sequence_start(load<std::int64_t>(index_.data() + header_size + 12 * sequences_ + 8 * document));
}

void TokenSet::keep_documents(std::int64_t begin, std::int64_t end) {
  UPCYCLE_CHECK(0 <= begin && begin <= end && end <= documents_, "documents [{}, {}) of {}", begin, end, documents_);
  first_document_ += begin;
  documents_ = end - begin;
  first_token_ = start_of_document(first_document_);
  tokens_ = start_of_document(first_document_ + documents_) - first_token_;
}

std::vector<std::int64_t> TokenSet::document_starts() const {
  std::vector<std::int64_t> starts;
  for (std::int64_t d = 0; d <= documents_; ++d)
    starts.push_back(start_of_document(first_document_ + d) - first_token_);
  return starts;
}

void TokenSet::convert(const char* from, std::int64_t first, std::int64_t count, std::int32_t* out) const {
  with_stored_type(code_, [&](auto example) {
    using T = decltype(example);
    const auto vocab = static_cast<std::uint64_t>(vocab_size_);
    bool bad = false;  // branch-free; as unsigned, a negative id is huge
    for (std::int64_t i = 0; i < count; ++i) {
      const T id = load<T>(from + i * static_cast<std::int64_t>(sizeof(T)));
      bad |= static_cast<std::uint64_t>(static_cast<std::int64_t>(id)) >= vocab;
      out[i] = static_cast<std::int32_t>(id);
    }
    if (!bad) return;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t id = load<T>(from + i * static_cast<std::int64_t>(sizeof(T)));
      if (id < 0 || id >= vocab_size_)
        input_error(
            "{}: token {} is id {}, outside the model's vocabulary of {}: tokenize the text with the model's own "
            "tokenizer",
            bin_.path(), first + i, id, vocab_size_);
    }
  });
}

void TokenSet::read(std::int64_t first, std::int64_t count, std::int32_t* out) const {
  UPCYCLE_CHECK(first >= 0 && count >= 0 && first <= tokens_ - count, "tokens {} to {} of {}, which has {}", first,
                first + count, prefix_, tokens_);
  first += first_token_;
  if (starts_.empty()) return convert(bin_.data() + first * width_, first, count, out);
  auto sequence = std::upper_bound(starts_.begin(), starts_.end() - 1, first) - starts_.begin() - 1;
  while (count > 0) {
    const std::int64_t offset = first - starts_[static_cast<std::size_t>(sequence)];
    const std::int64_t n = std::min(count, size_of_sequence(sequence) - offset);
    convert(bin_.data() + pointer_of_sequence(sequence) + offset * width_, first, n, out);
    first += n, count -= n, out += n, ++sequence;
  }
}

void TokenSet::mask_targets(std::int64_t first, std::int64_t count, std::int32_t* out) const {
  if (!has_mask()) return;
  UPCYCLE_CHECK(first >= 0 && count >= 0 && first <= tokens_ - count, "tokens {} to {} of {}, which has {}", first,
                first + count, prefix_, tokens_);
  first += first_token_;
  const char* const mask = mask_.data() + first;
  for (std::int64_t i = 0; i < count; ++i) {
    if (mask[i] == 0) out[i] = -1;
    if (static_cast<unsigned char>(mask[i]) > 1)
      input_error("{}: byte {} is {}, expected 0 or 1; make the set again", mask_.path(), first + i,
                  static_cast<int>(static_cast<unsigned char>(mask[i])));
  }
}

void TokenSet::check_ids(std::int64_t most) const {
  constexpr std::int64_t piece = 1 << 12;
  const std::int64_t pieces = (tokens_ + piece - 1) / piece, checked = std::min(pieces, most / piece + 1);
  std::vector<std::int32_t> ids(piece);
  for (std::int64_t i = 0; i < checked; ++i) {
    // Products of two counts of pieces stay below 2^63 for any set that a file system holds.
    const std::int64_t first = i * pieces / checked * piece;
    read(first, std::min(piece, tokens_ - first), ids.data());
    made_progress();
  }
}

}  // namespace upcycle
