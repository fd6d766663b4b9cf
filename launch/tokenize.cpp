#include "data/tokenize.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "core/suggest.h"
#include "launch/commands.h"
#include "launch/options.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;

// On a terminal a line that is rewritten, otherwise one line every ten seconds.
class Progress {
 public:
  void show(const TokenizeCounts& c) {
    const double seconds = since(start_);
    if (since(shown_) < (terminal_ ? 0.2 : 10)) return;
    shown_ = Clock::now();
    const double read = static_cast<double>(c.bytes_read), total = static_cast<double>(c.bytes_total);
    std::string text =
        fmt::format("{:.1f} MB read, {} tokens, {:.1f} MB/s", read / 1e6, c.tokens, read / 1e6 / seconds);
    // A pipe's size is not known beforehand, and then neither is the end.
    if (read > 0 && total >= read)
      text += fmt::format(", {:.0f} %, {:.0f} s left", 100 * read / total, seconds * (total - read) / read);
    if (terminal_) {
      std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
      open_line_ = true;
    } else {
      log_info("{}", text);
    }
  }
  ~Progress() {
    if (open_line_) std::fputs("\r\x1b[K", stderr);
  }

 private:
  static double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
  bool open_line_ = false;
};

InvalidUtf8 parse_invalid_utf8(const std::string& text) {
  if (text == "error") return InvalidUtf8::Error;
  if (text == "replace") return InvalidUtf8::Replace;
  if (text == "skip") return InvalidUtf8::Skip;
  input_error("command line: --invalid-utf8: found {}, expected error, replace or skip", quote_text(text));
}

// What the counts say beside documents, tokens and bytes.
std::string also(const TokenizeCounts& c, const TokenizeOptions& t) {
  std::string text;
  if (t.chat) text += fmt::format(", {} of the tokens count in the loss", c.targets);
  if (c.kept_documents > 0) text += fmt::format(", {} documents kept from before", c.kept_documents);
  if (c.empty_documents > 0) text += fmt::format(", {} empty documents left out", c.empty_documents);
  if (c.invalid_documents > 0 && t.invalid_utf8 == InvalidUtf8::Skip)
    text += fmt::format(", {} documents left out that are not valid UTF-8", c.invalid_documents);
  else if (c.invalid_documents > 0)
    text += fmt::format(", {} characters of {} documents replaced that are not valid UTF-8", c.invalid_characters,
                        c.invalid_documents);
  return text;
}

}  // namespace

int run_tokenize(const Arguments& arguments) {
  TokenizeOptions t;
  std::int64_t threads = 0;
  bool json = false;
  std::string invalid_utf8 = "error";
  Options options("tokenize",
                  "Text files to one token set: OUTPUT.bin and OUTPUT.idx (Megatron's format). A call that was killed "
                  "goes on where it was when it is made again.");
  options.option("--tokenizer", t.tokenizer, "sentencepiece .model file, tokenizer.json, or `bytes`", Need::Required);
  options.option("--output", t.output, "PREFIX of the token set", Need::Required);
  options.option("--doc-separator", t.doc_separator, "a line that ends a document; without it each file is one");
  options.option("--jsonl-key", t.jsonl_key, "key of the text in each line (document) of a .jsonl file");
  options.option("--invalid-utf8", invalid_utf8,
                 "what is not valid UTF-8: error ends here, replace puts U+FFFD for each broken character, skip leaves "
                 "its document out");
  options.flag(
      "--chat", t.chat,
      "each line of .jsonl is {\"messages\": [{\"role\", \"content\"}, ...]}: <|ROLE|>, newline, CONTENT; only "
      "the assistant's answers count in the loss (OUTPUT.mask)");
  options.option("--threads", threads, "0: one per core; a tokenizer.json has its own");
  options.flag("--json", json, "print the counts as one JSON object");
  options.positionals("files", t.inputs, "text or .jsonl files, also .gz and .zst");
  options.example("upcycle tokenize --tokenizer t.model --output tokens/docs docs/*.txt",
                  "text files to tokens/docs.bin and .idx, each file a document");
  if (!options.parse(arguments)) return 0;
  if (threads < 0 || threads > 4096)
    input_error("command line: --threads: found {}, expected 0 to 4096; 0 takes one per core", threads);
  t.threads = static_cast<int>(threads);
  t.invalid_utf8 = parse_invalid_utf8(invalid_utf8);

  TokenizeCounts counts;
  {
    Progress progress;  // its line is wiped before anything else is printed
    t.progress = [&](const TokenizeCounts& c) { progress.show(c); };
    counts = tokenize_files(t);
  }
  if (json) {
    nlohmann::ordered_json result{{"output", t.output},
                                  {"documents", counts.documents},
                                  {"empty_documents", counts.empty_documents},
                                  {"tokens", counts.tokens},
                                  {"text_bytes", counts.text_bytes}};
    if (t.chat) result["targets"] = counts.targets;
    if (t.invalid_utf8 != InvalidUtf8::Error) {
      result["invalid_characters"] = counts.invalid_characters;
      result["invalid_documents"] = counts.invalid_documents;
    }
    // A path need not be UTF-8, and is shown as well as it can be.
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    log_info("{}: {} documents, {} tokens, {} bytes of text{}", t.output, counts.documents, counts.tokens,
             counts.text_bytes, also(counts, t));
  }
  return 0;
}

}  // namespace upcycle
