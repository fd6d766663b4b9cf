#include "launch/bench/server_answers.h"

#include "tests/fuzz/target.h"

namespace upcycle {
namespace {

// The answer to GET /models and a stream, which comes in two pieces.
void one(std::string_view input) {
  const RemoteModel model = model_in_list(std::string(input), "");
  if (model.max_model_len < 0 || model.name.find_first_of("\r\n\x1b") != model.name.npos)
    throw std::logic_error("a model that is none: " + model.name);
  CompletionStream whole(2), pieces(2);
  const bool good = whole.feed(input);
  const std::size_t cut = input.size() / 2;
  const bool same = pieces.feed(input.substr(0, cut)) && pieces.feed(input.substr(cut));
  if (good != same || whole.tokens() != pieces.tokens() || whole.finished() != pieces.finished())
    throw std::logic_error("pieces of the answer are read differently");
  if (whole.error().find_first_of("\r\n\x1b") != whole.error().npos || whole.error().size() > 1000)
    throw std::logic_error("more than one line: " + whole.error());
  if (whole.prompt_tokens() < -1 || whole.output_tokens() < -1) throw std::logic_error("a count below 0");
}

}  // namespace
}  // namespace upcycle

UPCYCLE_FUZZ_TARGET(server_answers, upcycle::one)
