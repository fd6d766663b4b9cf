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

// InputError naming file and line for anything else, or for an id that is not below vocab_size. `encode` turns text
// into ids; if it is null (no tokenizer) text is refused.
std::vector<FileRequest> read_requests(const std::string& file, std::int64_t vocab_size,
                                       const std::function<std::vector<std::int32_t>(const std::string&)>& encode);

}  // namespace upcycle
