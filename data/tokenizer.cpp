#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/json_tokenizer.h"
#include "data/mapped_file.h"
#include "data/on_threads.h"
#include "data/sentencepiece_model.h"

namespace upcycle {
namespace {

void check_id(std::int32_t id, std::int64_t vocab_size, const std::string& name) {
  if (id < 0 || id >= vocab_size)
    input_error(
        "{}: token id {} is outside the tokenizer's vocabulary of {}: use the tokenizer that the model was made with",
        name, id, vocab_size);
}

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() { name_ = "bytes"; }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  std::vector<std::int32_t> encode_with_begins(std::string_view text, std::vector<std::size_t>& begins) const override {
    begins.resize(text.size());
    std::iota(begins.begin(), begins.end(), std::size_t{0});
    return encode(text);
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      check_id(id, vocab_size(), name_);
      if (id < 256) text.push_back(static_cast<char>(id));
    }
    return text;
  }
  std::int64_t vocab_size() const override { return 258; }
  std::int32_t eod_id() const override { return 256; }
  std::int32_t bos_id() const override { return 257; }
  std::int64_t decoded_bytes(std::span<const std::int32_t> ids, bool& at_start) const override {
    std::int64_t bytes = 0;
    for (const std::int32_t id : ids) {
      check_id(id, vocab_size(), name_);
      bytes += id < 256;
      at_start = id >= 256;
    }
    return bytes;
  }
  Cut last_cut(std::string_view text) const override { return {text.size(), text.size()}; }
};

constexpr std::string_view space_symbol = "\xe2\x96\x81";  // U+2581, sentencepiece's mark for a space

bool is_ascii_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path, std::string_view model) {
    name_ = path;
    check_sentencepiece_model(model, path);
    const auto status = [&] {
      try {
        return processor_.LoadFromSerializedProto({model.data(), model.size()});
      } catch (const std::exception& e) {  // of the library that sorts its pieces
        input_error("{}: not a sentencepiece model ({}); give a .model file or \"bytes\"", path, quote_text(e.what()));
      }
    }();
    if (!status.ok())
      input_error("{}: not a sentencepiece model ({}); give a .model file or \"bytes\"", path,
                  quote_text(status.message()));
    if (processor_.eos_id() < 0)
      input_error("{}: has no end-of-sentence piece (eos), which ends every document; train it without --eos_id=-1",
                  path);
    fill_byte_counts();
    find_cuts();
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode({text.data(), text.size()}, &ids);
    UPCYCLE_CHECK(status.ok(), "sentencepiece cannot encode {} bytes: {}", text.size(), status.message());
    return ids;
  }
  std::vector<std::int32_t> encode_with_begins(std::string_view text, std::vector<std::size_t>& begins) const override {
    const auto pieces = processor_.EncodeAsImmutableProto({text.data(), text.size()});
    std::vector<std::int32_t> ids;
    begins.clear();
    for (const auto& piece : pieces.pieces()) {
      ids.push_back(static_cast<std::int32_t>(piece.id()));
      begins.push_back(piece.begin());
    }
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) check_id(id, vocab_size(), name_);
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    UPCYCLE_CHECK(status.ok(), "sentencepiece cannot decode {} ids: {}", ids.size(), status.message());
    return text;
  }
  std::int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t eod_id() const override { return processor_.eos_id(); }
  std::int32_t bos_id() const override { return processor_.bos_id(); }

  std::int64_t decoded_bytes(std::span<const std::int32_t> ids, bool& at_start) const override {
    std::int64_t bytes = 0;
    for (const std::int32_t id : ids) {
      check_id(id, vocab_size(), name_);
      const auto i = static_cast<std::size_t>(id);
      const std::int32_t n = at_start ? bytes_at_start_[i] : bytes_[i];
      bytes += n;
      // Only models that fold spaces drop all leading spaces; others drop the first one.
      at_start = processor_.IsControl(id) || (at_start && n == 0 && (folds_spaces_ || bytes_[i] == 0));
    }
    return bytes;
  }

  Cut last_cut(std::string_view text) const override {
    if (cut_ == CutKind::None) return {};
    for (std::size_t at = text.rfind(' '); at != std::string_view::npos && at > 0; at = text.rfind(' ', at - 1))
      if (at + 1 < text.size() && is_ascii_alphanumeric(text[at - 1]) && is_ascii_alphanumeric(text[at + 1]))
        return {at, cut_ == CutKind::DropSpace ? at + 1 : at};
    return {};
  }

 private:
  enum class CutKind { None, DropSpace, KeepSpace };

  // The bytes that each piece adds to the text, in the middle and at the start of a document. The latter come from the
  // library, because they depend on the model's normalizer settings.
  void fill_byte_counts() {
    const auto pieces = static_cast<std::size_t>(processor_.GetPieceSize());
    bytes_.resize(pieces);
    bytes_at_start_.resize(pieces);
    for (std::size_t i = 0; i < pieces; ++i) {
      const int id = static_cast<int>(i);
      if (processor_.IsControl(id)) continue;
      if (processor_.IsByte(id)) {
        bytes_[i] = bytes_at_start_[i] = 1;
        continue;
      }
      bytes_at_start_[i] = static_cast<std::int32_t>(decode(std::vector<std::int32_t>{id}).size());
      const std::string& piece = processor_.IdToPiece(id);
      std::size_t spaces = 0;
      for (std::size_t at = piece.find(space_symbol); at != std::string::npos; at = piece.find(space_symbol, at + 3))
        ++spaces;
      bytes_[i] = processor_.IsUnknown(id) ? bytes_at_start_[i] : static_cast<std::int32_t>(piece.size() - 2 * spaces);
    }
    const std::int32_t space = processor_.PieceToId({space_symbol.data(), space_symbol.size()});
    folds_spaces_ = !processor_.IsUnknown(space) && decode(std::vector<std::int32_t>{space, space}).empty();
  }

  // A single space between two ASCII letters or digits is a place to cut if no piece spans it. Whether encoding puts a
  // space before the second part (add_dummy_prefix) is found by a trial.
  void find_cuts() {
    const std::int32_t space = processor_.PieceToId({space_symbol.data(), space_symbol.size()});
    if (processor_.IsUnknown(space)) return;  // unknown characters may merge across the space
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      for (std::size_t at = piece.find(space_symbol); at != std::string::npos; at = piece.find(space_symbol, at + 3))
        if (at > 0 && is_ascii_alphanumeric(piece[at - 1])) return;
    }
    auto ids = encode("ab");
    const auto whole = encode("ab cd"), dropped = encode("cd"), kept = encode(" cd");
    const auto equals = [&](const std::vector<std::int32_t>& second) {
      auto both = ids;
      both.insert(both.end(), second.begin(), second.end());
      return both == whole;
    };
    cut_ = equals(dropped) ? CutKind::DropSpace : equals(kept) ? CutKind::KeepSpace : CutKind::None;
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::int32_t> bytes_, bytes_at_start_;  // by id
  bool folds_spaces_ = false;
  CutKind cut_ = CutKind::None;
};

}  // namespace

std::vector<std::vector<std::int32_t>> Tokenizer::encode_all(std::span<const std::string> texts,
                                                             std::size_t threads) const {
  std::vector<std::vector<std::int32_t>> ids(texts.size());
  for_each_on_threads(texts.size(), threads, [&](std::size_t i) { ids[i] = encode(texts[i]); });
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_with_begins(std::string_view, std::vector<std::size_t>&) const {
  input_error("{}: a tokenizer.json has a chat template of its own; launch/tokenize_hf.py --chat uses it", name_);
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& spec) {
  if (spec == "bytes") return std::make_unique<ByteTokenizer>();
  const MappedFile file(spec, "the tokenizer is a sentencepiece .model file, a tokenizer.json, or \"bytes\"");
  const std::string_view content(file.data(), file.size());
  if (spec.ends_with(".json") || content.starts_with('{')) return open_json_tokenizer(spec);
  if (content.empty()) input_error("{}: is empty, expected a sentencepiece model", spec);
  return std::make_unique<SentencePieceTokenizer>(spec, content);
}

}  // namespace upcycle
