#pragma once
#include <memory>
#include <string>

#include "launch/bench/server_answers.h"
#include "parallel/serve/server.h"

namespace upcycle {

// What a server said of a request that has ended.
struct RemoteEnd {
  std::string error;  // why it failed, one line
  // As it counted them; -1 where it did not say. A message may hold several tokens: then there are more than were
  // emitted.
  std::int64_t prompt_tokens = -1, output_tokens = -1;
};

// A server that runs elsewhere: what this process spends is the load generator's.
class RemoteServer : public Server {
 public:
  virtual RemoteEnd end_of(std::int64_t id) const = 0;
  // The next step returns at this time (on its clock) if nothing has come till then.
  virtual void return_by(double time) = 0;
};

struct RemoteOptions {
  std::string url;             // http://host:port/v1
  std::string model;           // empty: the first that the server lists
  bool text = false;           // prompts as text, one short word for each token; else as token ids
  std::int64_t timeout = 600;  // seconds that a request may take
  std::string api_key;         // sent as a bearer token, unless the header is Authorization; empty: none
  std::string header;          // "Name: value", sent with every request; empty: none
};

// An OpenAI-compatible server (vLLM, SGLang, llama.cpp): POST URL/completions, streamed, greedy, to max_tokens
// (ignore_eos). InputError if the URL is none, key or header are not of one line, nothing answers there, or no model is
// known. One thread, libcurl's multi interface. A request that is refused, closed before its end or answered with
// anything else than a stream of completions ends as Failed.
std::unique_ptr<RemoteServer> connect_to(const RemoteOptions& options, RemoteModel& model);

}  // namespace upcycle
