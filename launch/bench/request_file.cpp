#include "launch/bench/request_file.h"

#include <nlohmann/json.hpp>
#include <set>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"

namespace upcycle {
namespace {

using nlohmann::json;

std::int64_t length(const json& line, const char* key, const std::string& where) {
  const json& value = line[key];
  if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > 0x1p31)
    input_error("{}: {}: found {}, expected a number of tokens, 1 or more", where, key, value.dump().substr(0, 40));
  return value.get<std::int64_t>();
}

std::vector<std::int32_t> ids_of(const json& list, std::int64_t vocab_size, const std::string& where) {
  std::vector<std::int32_t> ids;
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() >= static_cast<double>(vocab_size))
      input_error("{}: prompt[{}]: found {}, expected a token id from 0 to {}; is this another model's vocabulary?",
                  where, ids.size(), id.dump().substr(0, 40), vocab_size - 1);
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

FileRequest request_of(const json& line, const std::string& where, std::int64_t vocab_size, const Encode& encode) {
  static const std::string expected = R"(expected {"prompt_len", "output_len"} or {"prompt", "max_tokens"})";
  if (!line.is_object()) input_error("{}: found no object, {}", where, expected);
  std::set<std::string> keys;
  for (const auto& [key, value] : line.items()) keys.insert(key);
  FileRequest r;
  if (keys == std::set<std::string>{"output_len", "prompt_len"}) {
    r.prompt_len = length(line, "prompt_len", where);
    r.output_len = length(line, "output_len", where);
    return r;
  }
  for (const std::string& key : keys)
    if (key != "prompt" && key != "max_tokens" && key != "prompt_len" && key != "output_len")
      input_error("{}: found the unknown key {}, {}", where, quote_text(key), expected);
  if (keys != std::set<std::string>{"max_tokens", "prompt"})
    input_error("{}: found keys that make no request, {}", where, expected);
  r.output_len = length(line, "max_tokens", where);
  const json& prompt = line["prompt"];
  if (prompt.is_string()) {
    if (encode == nullptr)
      input_error("{}: prompt: found text, expected token ids: this model has no tokenizer; name one with --tokenizer",
                  where);
    r.ids = encode(prompt.get<std::string>());
  } else if (prompt.is_array()) {
    r.ids = ids_of(prompt, vocab_size, where);
  }
  if (r.ids.empty())
    input_error("{}: prompt: found {}, expected text or token ids", where, prompt.dump().substr(0, 40));
  r.prompt_len = static_cast<std::int64_t>(r.ids.size());
  return r;
}

}  // namespace

std::vector<FileRequest> read_requests(const std::string& file, std::int64_t vocab_size, const Encode& encode) {
  constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
  return parse_requests(read_text(file, kMaxBytes), file, vocab_size, encode);
}

std::string to_text(const std::vector<FileRequest>& requests) {
  std::string text;
  for (const FileRequest& r : requests) {
    const json line = r.ids.empty() ? json{{"prompt_len", r.prompt_len}, {"output_len", r.output_len}}
                                    : json{{"prompt", r.ids}, {"max_tokens", r.output_len}};
    text += line.dump() + "\n";
  }
  return text;
}

std::vector<FileRequest> parse_requests(const std::string& text, const std::string& file, std::int64_t vocab_size,
                                        const Encode& encode) {
  std::vector<FileRequest> requests;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin), where = fmt::format("{}: line {}", file, ++number);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    requests.push_back(request_of(parse_strict_json(line, where), where, vocab_size, encode));
  }
  if (requests.empty()) input_error("{}: found no requests, expected one JSON object per line", file);
  return requests;
}

}  // namespace upcycle
