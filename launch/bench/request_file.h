#pragma once
#include <functional>
#include <string>
#include <vector>

namespace upcycle {

// A request of a file with one JSON object per line: {"prompt_len": 200, "output_len": 20} or {"prompt": "text" or
// [ids], "max_tokens": 20}.
struct FileRequest {
  std::int64_t prompt_len = 0, output_len = 0;  // tokens
  std::vector<std::int32_t> ids;                // empty: random tokens
};

// Turns text into ids; null where there is no tokenizer: then text is refused.
using Encode = std::function<std::vector<std::int32_t>(const std::string&)>;

// InputError naming file and line for anything else, or for an id that is not below vocab_size.
std::vector<FileRequest> read_requests(const std::string& file, std::int64_t vocab_size, const Encode& encode);
std::vector<FileRequest> parse_requests(const std::string& text, const std::string& file, std::int64_t vocab_size,
                                        const Encode& encode);
// Such a text, without text in it.
std::string to_text(const std::vector<FileRequest>& requests);

}  // namespace upcycle
