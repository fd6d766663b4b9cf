#include "data/tokenize.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "data/chat.h"
#include "data/token_pipeline.h"
#include "data/tokenize_state.h"
#include "data/utf8.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

constexpr std::size_t max_json_line = std::size_t{1} << 28;
constexpr std::string_view white_space = " \t\r\n\v\f";

// One input file, and where its bytes come among those of all.
struct Input {
  std::int64_t number, bytes_before;
  TextReader& reader;
};

void add_text_file(const Input& in, const TokenizeOptions& options, TokenPipeline& pipeline) {
  TextReader& reader = in.reader;
  TextReader::Piece piece;
  bool newline = false;  // written only once something follows it in the document
  while (reader.next(piece)) {
    pipeline.report(in.bytes_before + reader.bytes_read());
    std::string_view line = piece.text;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!options.doc_separator.empty() && piece.starts_line && piece.ends_line && line == options.doc_separator) {
      pipeline.end_document(true, in.number, reader.offset(), reader.line() + 1);
      newline = false;
      continue;
    }
    pipeline.note_invalid(piece.invalid);
    if (newline) pipeline.add_text("\n", reader);
    pipeline.add_text(piece.text, reader);
    newline = piece.newline;
  }
  pipeline.end_document(options.doc_separator.empty(), in.number + 1, 0, 1);
}

std::string place(const TextReader& reader) { return fmt::format("{}:{}", reader.path(), reader.line()); }

// The JSON value of a line, discarded where only its half surrogate pairs are wrong and such lines are left out.
Json parse_line(const std::string& line, const TextReader& reader, InvalidUtf8 rule, std::int64_t& invalid) {
  if (nested_too_deeply(line))
    input_error("{}: found more than {} lists and objects within each other, expected fewer; mend the line",
                place(reader), json_depth_max);
  try {
    return Json::parse(line);
  } catch (const Json::exception& error) {
    std::int64_t halves = 0;
    const std::string mended = replaced_surrogates(line, halves);
    if (rule != InvalidUtf8::Error && halves > 0 && Json::accept(mended)) {
      invalid += halves;
      return Json::parse(mended);
    }
    // The library counts lines from this one, and quotes its last token at full length.
    const std::string_view message = error.what();
    const std::size_t column = message.find("column");
    input_error("{}: is not JSON ({}); expected one object per line", place(reader),
                message.substr(column == std::string_view::npos ? 0 : column, 160));
  }
}

const std::string& text_of(const Json& value, const std::string& key, const TextReader& reader) {
  const auto text = value.is_object() ? value.find(key) : value.end();
  if (text == value.end() || !text->is_string())
    input_error("{}: found {}, expected an object with a text at key \"{}\"; choose the key with --jsonl-key",
                place(reader),
                !value.is_object()    ? std::string(value.type_name())
                : text == value.end() ? std::string("an object without it")
                                      : fmt::format("{} at it", text->type_name()),
                key);
  return text->get_ref<const std::string&>();
}

void add_jsonl_file(const Input& in, const TokenizeOptions& options, TokenPipeline& pipeline) {
  TextReader& reader = in.reader;
  TextReader::Piece piece;
  std::string line;
  std::int64_t invalid = 0;
  while (reader.next(piece)) {
    pipeline.report(in.bytes_before + reader.bytes_read());
    line.append(piece.text);
    invalid += piece.invalid;
    if (line.size() > max_json_line)
      input_error("{}: the line is longer than {} MiB; split the document", place(reader), max_json_line >> 20);
    if (!piece.ends_line) continue;
    if (line.find_first_not_of(white_space) != std::string::npos) {
      const Json value = parse_line(line, reader, options.invalid_utf8, invalid);
      pipeline.note_invalid(invalid);
      if (options.chat)
        pipeline.add_conversation(chat_turns(value, place(reader)));
      else
        pipeline.add_text(text_of(value, options.jsonl_key, reader), reader);
      pipeline.end_document(true, in.number, reader.offset(), reader.line() + 1);
    }
    line.clear();
    invalid = 0;
  }
}

bool is_jsonl(const std::string& path) { return uncompressed_name(path).ends_with(".jsonl"); }

std::int64_t size_of_file(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : static_cast<std::int64_t>(size);
}

// All inputs, before any is tokenized; except pipes, whose text would be lost.
void check_inputs(const TokenizeOptions& options, TokenizeCounts& counts) {
  for (const std::string& path : options.inputs) {
    std::error_code error;
    const auto type = std::filesystem::status(path, error).type();
    if (options.chat && !is_jsonl(path))
      input_error("{}: found no .jsonl, expected one conversation per line of .jsonl files under --chat", path);
    if (type == std::filesystem::file_type::fifo || type == std::filesystem::file_type::character) continue;
    const TextReader probe(path, options.invalid_utf8);
    counts.bytes_total += size_of_file(path);
  }
}

}  // namespace

TokenizeCounts tokenize_files(const TokenizeOptions& options) {
  if (options.inputs.empty()) input_error("tokenize: no input files; give text or .jsonl files");
  if (options.doc_separator.find('\n') != std::string::npos)
    input_error("--doc-separator: holds a newline, expected the text of one line");
  const auto tokenizer = open_tokenizer(options.tokenizer);
  if (tokenizer->eod_id() < 0)
    input_error(
        "{}: the tokenizer_config.json beside it names no eos_token, which ends each document; name one there, or use "
        "launch/tokenize_hf.py --eod TOKEN",
        options.tokenizer);
  TokenizeCounts counts;
  check_inputs(options, counts);
  const TokenizeState state(options);
  const TokenPipeline::Saved saved = state.read(tokenizer->vocab_size()).value_or(TokenPipeline::Saved{});
  TokenPipeline::Save save;
  if (state.kept()) save = [&](const TokenPipeline::Saved& now) { state.write(now); };
  // Whatever ends this but a kill takes the output along, and with it what there is to go on from.
  struct RemoveState {
    const TokenizeState& state;
    ~RemoveState() { state.remove(); }
  } const removed{state};
  TokenPipeline pipeline(*tokenizer, options, counts, saved, save);
  std::int64_t before = 0;
  for (std::size_t i = 0; i < options.inputs.size(); ++i) {
    const std::string& path = options.inputs[i];
    const auto number = static_cast<std::int64_t>(i);
    if (number < saved.at.input) {
      before += size_of_file(path);
      continue;
    }
    const bool here = number == saved.at.input;
    TextReader reader(path, options.invalid_utf8, here ? saved.at.offset : 0, here ? saved.at.line : 1);
    (is_jsonl(path) ? add_jsonl_file : add_text_file)({number, before, reader}, options, pipeline);
    before += reader.bytes_read();
  }
  pipeline.report(before);
  pipeline.finish();
  return counts;
}

}  // namespace upcycle
