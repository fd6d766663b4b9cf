#include "data/token_pipeline.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/error.h"
#include "data/on_threads.h"

namespace upcycle {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 14;  // encoded at a time: sentencepiece is slow on long texts
constexpr std::size_t max_uncut_bytes = std::size_t{1} << 26;
constexpr std::string_view white_space = " \t\r\n\v\f";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

TokenPipeline::TokenPipeline(const Tokenizer& tokenizer, const TokenizeOptions& options, TokenizeCounts& counts,
                             const Saved& saved, Save save)
    : tokenizer_(tokenizer),
      options_(options),
      counts_(counts),
      save_(std::move(save)),
      writer_(options.output, tokenizer.vocab_size(), {options.chat, saved.written}),
      saved_(saved),
      saved_at_(now()),
      next_cut_(piece_bytes),
      read_(saved.at) {
  threads_ = options.threads > 0 ? static_cast<std::size_t>(options.threads)
                                 : std::max(1u, std::thread::hardware_concurrency());
  counts_.kept_documents = saved.written.documents;
}

void TokenPipeline::note_invalid(std::int64_t characters) {
  invalid_ += characters;
  if (characters == 0 || options_.invalid_utf8 != InvalidUtf8::Skip || left_out_) return;
  left_out_ = true;
  leave_out();
}

void TokenPipeline::add_text(std::string_view text, const TextReader& reader) {
  started_ = true;
  has_text_ = has_text_ || text.find_first_not_of(white_space) != std::string_view::npos;
  if (left_out_) return;
  for (; !text.empty(); text.remove_prefix(std::min(text.size(), piece_bytes))) {
    document_.append(text.substr(0, piece_bytes));
    if (document_.size() > max_uncut_bytes)
      input_error(
          "{}:{}: {} MiB of one document without a place to cut it (a single space between two ASCII letters or "
          "digits); split it into documents with --doc-separator",
          reader.path(), reader.line(), max_uncut_bytes >> 20);
    if (!has_text_ || document_.size() < next_cut_) continue;
    const auto cut = tokenizer_.last_cut(document_);
    if (cut.end > 0) {
      add_piece(document_.substr(0, cut.end), {.bytes = cut.begin});
      document_.erase(0, cut.begin);
      next_cut_ = piece_bytes;
    } else {
      next_cut_ *= 2;  // doubled, because each attempt searches the whole stretch
    }
  }
}

void TokenPipeline::add_conversation(const std::vector<ChatTurn>& turns) {
  started_ = true;
  if (left_out_) return;
  for (const ChatTurn& turn : turns)
    add_piece(turn.text,
              {.bytes = turn.text.size(), .is_turn = true, .answer = turn.answer, .answered = turn.answered});
  has_text_ = !turns.empty();
}

void TokenPipeline::leave_out() {
  document_.clear();
  while (!batch_.empty() && !batch_.back().ends_document) {
    batch_bytes_ -= texts_.back().size();
    batch_.pop_back();
    texts_.pop_back();
  }
  if (!batch_.empty() || document_tokens_ == 0) return;
  writer_.drop_document();
  document_tokens_ = document_bytes_ = document_targets_ = 0;
}

void TokenPipeline::end_pieces(bool blank_counts) {
  if (!has_text_) {
    read_.empty_documents += started_ || blank_counts ? 1 : 0;
  } else if (options_.chat) {  // its turns are there
    batch_.back().ends_document = true;
    batch_.back().after = read_;
  } else {
    add_piece(document_, {.bytes = document_.size(), .ends_document = true, .after = read_});
  }
}

void TokenPipeline::end_document(bool blank_counts, std::int64_t input, std::int64_t offset, std::int64_t line) {
  read_.input = input, read_.offset = offset, read_.line = line;
  read_.invalid_characters += options_.invalid_utf8 == InvalidUtf8::Replace ? invalid_ : 0;
  read_.invalid_documents += invalid_ > 0 ? 1 : 0;
  if (!left_out_) end_pieces(blank_counts);
  document_.clear();
  has_text_ = started_ = left_out_ = false;
  invalid_ = 0;
  next_cut_ = piece_bytes;
  if (batch_bytes_ >= threads_ * 128 * piece_bytes) run_batch();
}

void TokenPipeline::finish() {
  run_batch();
  counts_.empty_documents = read_.empty_documents + saved_.emptied;
  counts_.invalid_documents = read_.invalid_documents;
  counts_.invalid_characters = read_.invalid_characters;
  if (writer_.documents() == 0)
    input_error("{}: the {} input files hold no text; nothing was written", options_.inputs.front(),
                options_.inputs.size());
  writer_.finish();
}

void TokenPipeline::add_piece(std::string text, const Piece& piece) {
  batch_bytes_ += text.size();
  texts_.push_back(std::move(text));
  batch_.push_back(piece);
  // A conversation is written whole: its last turn is not known before its end.
  if (!piece.is_turn && batch_bytes_ >= threads_ * 128 * piece_bytes) run_batch();
}

std::vector<std::vector<std::int32_t>> TokenPipeline::encode_batch(
    std::vector<std::vector<std::uint8_t>>& counted) const {
  if (!options_.chat) return tokenizer_.encode_all(texts_, threads_);
  std::vector<std::vector<std::int32_t>> ids(texts_.size());
  for_each_on_threads(texts_.size(), threads_, [&](std::size_t i) {
    std::vector<std::size_t> begins;
    ids[i] = tokenizer_.encode_with_begins(texts_[i], begins);
    for (const std::size_t begin : begins) counted[i].push_back(batch_[i].answered && begin >= batch_[i].answer);
  });
  return ids;
}

void TokenPipeline::write(const Piece& piece, const std::vector<std::int32_t>& ids, std::vector<std::uint8_t> counted) {
  const std::int32_t end = tokenizer_.eod_id();
  const auto append = [&](std::span<const std::int32_t> tokens, const std::vector<std::uint8_t>& mask) {
    writer_.append(tokens);
    if (options_.chat) writer_.append_mask(mask);
    document_tokens_ += tokens.size();
    document_targets_ += static_cast<std::size_t>(std::count(mask.begin(), mask.end(), 1));
  };
  append(ids, counted);
  if (piece.answered) append({&end, 1}, {1});
  document_bytes_ += piece.bytes;
  if (!piece.ends_document) return;
  saved_.at = piece.after;
  if (document_tokens_ == 0) {  // the tokenizer's normalizer removed everything
    ++saved_.emptied;
  } else {
    if (!piece.answered) append({&end, 1}, {0});
    writer_.end_document();
    saved_.text_bytes += static_cast<std::int64_t>(document_bytes_);
    saved_.targets += static_cast<std::int64_t>(document_targets_);
  }
  document_tokens_ = document_bytes_ = document_targets_ = 0;
}

void TokenPipeline::run_batch() {
  std::vector<std::vector<std::uint8_t>> counted(texts_.size());
  const auto ids = encode_batch(counted);
  for (std::size_t i = 0; i < batch_.size(); ++i) write(batch_[i], ids[i], std::move(counted[i]));
  batch_.clear();
  texts_.clear();
  batch_bytes_ = 0;
  counts_.documents = writer_.documents();
  counts_.tokens = writer_.tokens();
  counts_.text_bytes = saved_.text_bytes;
  counts_.targets = saved_.targets;
  if (save_ && now() - saved_at_ >= options_.save_every) {
    saved_.written = writer_.save();
    save_(saved_);
    saved_at_ = now();
  }
  if (options_.progress) options_.progress(counts_);
}

}  // namespace upcycle
