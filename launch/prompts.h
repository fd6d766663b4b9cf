#pragma once
#include <string>
#include <vector>

#include "core/config/config.h"
#include "data/tokenizer.h"
#include "parallel/serve/request.h"

namespace upcycle {

// A prompt to continue, and how.
struct Prompt {
  std::string where;  // for messages: "FILE:LINE", or "command line"
  std::string text;
  std::vector<std::int32_t> ids;             // instead of a text: the model gets exactly these
  std::int64_t max_tokens = 0;               // new ones; 0: as many as the context has room for, at most 128
  std::vector<std::int32_t> stop_token_ids;  // end it beside the token that ends a document
  SamplingOptions sampling;
};

// One prompt per line, without the empty ones: of FILE.jsonl objects {"prompt": text or list of ids, and at will
// "max_tokens", "temperature", "top_k", "top_p", "seed", "stop_token_ids"}, of other files the text itself. What a line
// does not say is as in `defaults`; the seed is then `defaults`' plus the index of the prompt. InputError naming file,
// line, key, found and expected.
std::vector<Prompt> read_prompts(const std::string& file, const Prompt& defaults);

void check_sampling(const std::string& where, const Prompt& prompt);  // InputError for values outside their ranges

// The requests for these prompts; ids are their indices. A text begins as a document does: after the model's token for
// that, or else the token that ends one, which also ends the new text. `tokenizer` may be null where all prompts are
// ids. InputError for a prompt that leaves no room for max_tokens in the model's context, or an id outside its
// vocabulary.
std::vector<Request> make_requests(const std::vector<Prompt>& prompts, const ModelConfig& model,
                                   const Tokenizer* tokenizer);

// To take requests from one rank to the others.
std::string to_text(const std::vector<Request>& requests);
std::vector<Request> requests_from(const std::string& text);

}  // namespace upcycle
