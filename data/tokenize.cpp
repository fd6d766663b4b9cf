#include "data/tokenize.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "core/error.h"
#include "data/text_reader.h"
#include "data/token_set.h"
#include "data/token_set_writer.h"
#include "data/tokenizer.h"

namespace upcycle {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 14;  // encoded at a time: sentencepiece is slow on long texts
constexpr std::size_t max_uncut_bytes = std::size_t{1} << 26;
constexpr std::size_t max_json_line = std::size_t{1} << 28;
constexpr std::string_view white_space = " \t\r\n\v\f";

struct Piece {
  std::string text;
  std::size_t bytes = 0;  // of the document, including a space at the cut after it
  bool ends_document = false;
  std::vector<std::int32_t> ids;
};

// Cuts documents into pieces, encodes a batch of pieces on all threads and writes them in order.
class Pipeline {
 public:
  Pipeline(const Tokenizer& tokenizer, const TokenizeOptions& options, TokenizeCounts& counts)
      : tokenizer_(tokenizer), options_(options), counts_(counts), writer_(options.output, tokenizer.vocab_size()) {
    threads_ = options.threads > 0 ? static_cast<std::size_t>(options.threads)
                                   : std::max(1u, std::thread::hardware_concurrency());
  }

  void add_text(std::string_view text, const TextReader& reader) {
    started_ = true;
    has_text_ = has_text_ || text.find_first_not_of(white_space) != std::string_view::npos;
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
        add_piece(document_.substr(0, cut.end), cut.begin, false);
        document_.erase(0, cut.begin);
        next_cut_ = piece_bytes;
      } else {
        next_cut_ *= 2;  // doubled, because each attempt searches the whole stretch
      }
    }
  }

  // `blank_counts`: whether a document without any bytes counts (between two separators) or not (after the last
  // separator).
  void end_document(bool blank_counts) {
    if (has_text_)
      add_piece(document_, document_.size(), true);
    else if (started_ || blank_counts)
      ++counts_.empty_documents;
    document_.clear();
    has_text_ = started_ = false;
    next_cut_ = piece_bytes;
  }

  void report(std::int64_t bytes_read) { counts_.bytes_read = bytes_read; }

  void finish() {
    run_batch();
    if (writer_.documents() == 0)
      input_error("{}: the {} input files hold no text; nothing was written", options_.inputs.front(),
                  options_.inputs.size());
    writer_.finish();
  }

 private:
  void add_piece(std::string text, std::size_t bytes, bool ends_document) {
    batch_bytes_ += text.size();
    batch_.push_back({std::move(text), bytes, ends_document, {}});
    if (batch_bytes_ >= threads_ * 128 * piece_bytes) run_batch();
  }

  void encode_batch() {
    std::atomic<std::size_t> next{0};
    std::vector<std::exception_ptr> errors(threads_);
    const auto work = [&](std::size_t thread) {
      try {
        for (std::size_t i; (i = next.fetch_add(1)) < batch_.size();) batch_[i].ids = tokenizer_.encode(batch_[i].text);
      } catch (...) {
        errors[thread] = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> helpers;
      for (std::size_t t = 1; t < std::min(threads_, batch_.size()); ++t) helpers.emplace_back(work, t);
      work(0);
    }
    for (const auto& error : errors)
      if (error) std::rethrow_exception(error);
  }

  void run_batch() {
    encode_batch();
    const std::int32_t end = tokenizer_.eod_id();
    for (const Piece& piece : batch_) {
      writer_.append(piece.ids);
      document_tokens_ += piece.ids.size();
      document_bytes_ += piece.bytes;
      if (!piece.ends_document) continue;
      if (document_tokens_ > 0) {
        writer_.append({&end, 1});
        writer_.end_document();
        counts_.text_bytes += static_cast<std::int64_t>(document_bytes_);
      } else {
        ++counts_.empty_documents;  // the tokenizer's normalizer removed everything
      }
      document_tokens_ = document_bytes_ = 0;
    }
    batch_.clear();
    batch_bytes_ = 0;
    counts_.documents = writer_.documents();
    counts_.tokens = writer_.tokens();
    if (options_.progress) options_.progress(counts_);
  }

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  TokenizeCounts& counts_;
  TokenSetWriter writer_;
  std::size_t threads_ = 1;

  std::string document_;  // what is read and not yet cut off
  bool started_ = false, has_text_ = false;
  std::size_t next_cut_ = piece_bytes;

  std::vector<Piece> batch_;
  std::size_t batch_bytes_ = 0, document_tokens_ = 0, document_bytes_ = 0;
};

void add_text_file(TextReader& reader, const TokenizeOptions& options, Pipeline& pipeline, std::int64_t before) {
  TextReader::Piece piece;
  bool newline = false;  // written only once something follows it in the document
  while (reader.next(piece)) {
    pipeline.report(before + reader.bytes_read());
    std::string_view line = piece.text;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!options.doc_separator.empty() && piece.starts_line && piece.ends_line && line == options.doc_separator) {
      pipeline.end_document(true);
      newline = false;
      continue;
    }
    if (newline) pipeline.add_text("\n", reader);
    pipeline.add_text(piece.text, reader);
    newline = piece.newline;
  }
  pipeline.end_document(options.doc_separator.empty());
}

void add_jsonl_file(TextReader& reader, const TokenizeOptions& options, Pipeline& pipeline, std::int64_t before) {
  TextReader::Piece piece;
  std::string line;
  while (reader.next(piece)) {
    pipeline.report(before + reader.bytes_read());
    line.append(piece.text);
    if (line.size() > max_json_line)
      input_error("{}:{}: the line is longer than {} MiB; split the document", reader.path(), reader.line(),
                  max_json_line >> 20);
    if (!piece.ends_line) continue;
    if (line.find_first_not_of(white_space) != std::string::npos) {
      nlohmann::json value;
      try {
        value = nlohmann::json::parse(line);
      } catch (const nlohmann::json::exception& error) {
        // The library counts lines from this one, and quotes its last token at full length.
        const std::string_view message = error.what();
        const std::size_t column = message.find("column");
        input_error("{}:{}: is not JSON ({}); expected one object per line", reader.path(), reader.line(),
                    message.substr(column == std::string_view::npos ? 0 : column, 160));
      }
      const auto text = value.is_object() ? value.find(options.jsonl_key) : value.end();
      if (text == value.end() || !text->is_string())
        input_error("{}:{}: found {}, expected an object with a text at key \"{}\"; choose the key with --jsonl-key",
                    reader.path(), reader.line(),
                    !value.is_object()    ? std::string(value.type_name())
                    : text == value.end() ? std::string("an object without it")
                                          : fmt::format("{} at it", text->type_name()),
                    options.jsonl_key);
      pipeline.add_text(text->get_ref<const std::string&>(), reader);
      pipeline.end_document(true);
    }
    line.clear();
  }
}

}  // namespace

TokenizeCounts tokenize_files(const TokenizeOptions& options) {
  if (options.inputs.empty()) input_error("tokenize: no input files; give text or .jsonl files");
  if (options.doc_separator.find('\n') != std::string::npos)
    input_error("--doc-separator: holds a newline, expected the text of one line");
  const auto tokenizer = open_tokenizer(options.tokenizer);
  TokenizeCounts counts;
  for (const std::string& path : options.inputs) {
    std::error_code error;
    const auto type = std::filesystem::status(path, error).type();
    if (type == std::filesystem::file_type::fifo || type == std::filesystem::file_type::character) continue;
    const TextReader probe(path);  // check all before any is tokenized; except pipes, whose text would be lost
    const auto size = std::filesystem::file_size(path, error);
    if (!error) counts.bytes_total += static_cast<std::int64_t>(size);
  }
  Pipeline pipeline(*tokenizer, options, counts);
  std::int64_t before = 0;
  for (const std::string& path : options.inputs) {
    TextReader reader(path);
    (path.ends_with(".jsonl") ? add_jsonl_file : add_text_file)(reader, options, pipeline, before);
    before += reader.bytes_read();
  }
  pipeline.finish();
  return counts;
}

}  // namespace upcycle
