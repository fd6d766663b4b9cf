#include "data/tokenize.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
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

}  // namespace

int run_tokenize(const Arguments& arguments) {
  TokenizeOptions t;
  std::int64_t threads = 0;
  bool json = false;
  Options options("tokenize", "Text files to one token set: OUTPUT.bin and OUTPUT.idx (Megatron's format).");
  options.option("--tokenizer", t.tokenizer, "sentencepiece .model file, or `bytes`", Need::Required);
  options.option("--output", t.output, "PREFIX of the token set", Need::Required);
  options.option("--doc-separator", t.doc_separator, "a line that ends a document; without it each file is one");
  options.option("--jsonl-key", t.jsonl_key, "key of the text in each line (document) of a .jsonl file");
  options.option("--threads", threads, "0: one per core");
  options.flag("--json", json, "print the counts as one JSON object");
  options.positionals("files", t.inputs, "text or .jsonl files");
  options.example("upcycle tokenize --tokenizer t.model --output tokens/docs docs/*.txt",
                  "text files to tokens/docs.bin and .idx, each file a document");
  if (!options.parse(arguments)) return 0;
  if (threads < 0 || threads > 4096)
    input_error("command line: --threads: found {}, expected 0 to 4096; 0 takes one per core", threads);
  t.threads = static_cast<int>(threads);

  TokenizeCounts counts;
  {
    Progress progress;  // its line is wiped before anything else is printed
    t.progress = [&](const TokenizeCounts& c) { progress.show(c); };
    counts = tokenize_files(t);
  }
  if (json) {
    const nlohmann::ordered_json result{{"output", t.output},
                                        {"documents", counts.documents},
                                        {"empty_documents", counts.empty_documents},
                                        {"tokens", counts.tokens},
                                        {"text_bytes", counts.text_bytes}};
    // A path need not be UTF-8, and is shown as well as it can be.
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    log_info("{}: {} documents, {} tokens, {} bytes of text{}", t.output, counts.documents, counts.tokens,
             counts.text_bytes,
             counts.empty_documents > 0 ? fmt::format(", {} empty documents left out", counts.empty_documents) : "");
  }
  return 0;
}

}  // namespace upcycle
