#include "data/tokenize_state.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "data/files.h"
#include "data/hash.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

// Everything that decides which bytes are written; "" where an input can not be read twice.
std::string call_of(const TokenizeOptions& o) {
  Json call{{"tokenizer", o.tokenizer == "bytes" ? o.tokenizer : hash_file(o.tokenizer)},
            {"doc_separator", o.doc_separator},
            {"jsonl_key", o.jsonl_key},
            {"invalid_utf8", static_cast<int>(o.invalid_utf8)},
            {"chat", o.chat},
            {"inputs", Json::array()}};
  for (const std::string& input : o.inputs) {
    struct stat found {};
    if (::stat(input.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return "";
    call["inputs"].push_back({input, found.st_size, found.st_mtim.tv_sec, found.st_mtim.tv_nsec});
  }
  return call.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void take(const Json& j, TokenPipeline::Saved& s) {
  s.at = {j.at("input"),
          j.at("offset"),
          j.at("line"),
          j.at("empty_documents"),
          j.at("invalid_documents"),
          j.at("invalid_characters")};
  s.written = {j.at("tokens"), j.at("documents")};
  s.text_bytes = j.at("text_bytes");
  s.targets = j.at("targets");
  s.emptied = j.at("emptied");
}

}  // namespace

TokenizeState::TokenizeState(const TokenizeOptions& options)
    : path_(options.output + ".resume"), output_(options.output), of_(call_of(options)), mask_(options.chat) {}

std::optional<TokenPipeline::Saved> TokenizeState::read(std::int64_t vocab_size) const {
  if (!kept() || !std::filesystem::exists(path_)) return {};
  const Json j = Json::parse(read_regular_text(path_, std::size_t{1} << 26), nullptr, false);
  const auto call = j.is_object() ? j.find("call") : j.end();
  if (call == j.end() || *call != of_) {
    log_info("{}: is of other inputs or options: starts over", path_);
    return {};
  }
  TokenPipeline::Saved s;
  try {
    take(j, s);
  } catch (const Json::exception&) {
    log_info("{}: is damaged: starts over", path_);
    return {};
  }
  if (!TokenSetWriter::is_there(output_, vocab_size, {mask_, s.written})) {
    log_info("{}: the files that it speaks of are not all there: starts over", path_);
    return {};
  }
  log_info("{}: goes on after {} documents, {} tokens", output_, s.written.documents, s.written.tokens);
  return s;
}

void TokenizeState::write(const TokenPipeline::Saved& s) const {
  write_text_atomic(path_, Json{{"call", of_},
                                {"input", s.at.input},
                                {"offset", s.at.offset},
                                {"line", s.at.line},
                                {"empty_documents", s.at.empty_documents},
                                {"invalid_documents", s.at.invalid_documents},
                                {"invalid_characters", s.at.invalid_characters},
                                {"documents", s.written.documents},
                                {"tokens", s.written.tokens},
                                {"text_bytes", s.text_bytes},
                                {"targets", s.targets},
                                {"emptied", s.emptied}}
                                   .dump() +
                               "\n");
}

void TokenizeState::remove() const { ::unlink(path_.c_str()); }

}  // namespace upcycle
