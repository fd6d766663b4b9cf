#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "launch/bench/event_stream.h"

// What an OpenAI-compatible server writes, as it comes from the network: nothing of it is believed before it was looked
// at, and no more of it is kept than is needed.
namespace upcycle {

struct RemoteModel {
  std::string name;
  std::int64_t max_model_len = 0;  // 0: the server does not say
};

inline constexpr std::size_t model_list_bytes_max = std::size_t{1} << 20;

// The model of that name in the answer to GET /models, or the first one if `wanted` is empty. The name is empty where
// the answer is no list, or has no such model with a name of one line.
RemoteModel model_in_list(const std::string& answer, const std::string& wanted);

// The beginning of what a server wrote, on one line, of printable ASCII.
std::string excerpt(std::string_view text);

// A streamed answer to POST /completions.
class CompletionStream {
 public:
  // `asked`: the tokens that were asked for. A stream of many more messages than that is ended as an error.
  explicit CompletionStream(std::int64_t asked) : most_messages_(4 * asked + 1000) {}

  // Bytes as they come, in any pieces. False once the answer is wrong: then error() says why, in one line, and what
  // follows is ignored.
  bool feed(std::string_view bytes);

  std::int64_t tokens() const { return tokens_; }  // so far: messages that have text, or a token without any yet
  bool finished() const { return finished_; }      // the stream says so
  const std::string& error() const { return error_; }
  // As the server counted them; -1 where it did not say.
  std::int64_t prompt_tokens() const { return prompt_tokens_; }
  std::int64_t output_tokens() const { return output_tokens_; }

 private:
  void read(std::string_view message);

  EventStream events_;
  std::int64_t most_messages_, messages_ = 0, tokens_ = 0, prompt_tokens_ = -1, output_tokens_ = -1;
  bool finished_ = false;
  std::string error_;
};

}  // namespace upcycle
