#include "launch/bench/offline.h"

#include "core/rng.h"
#include "launch/bench/workload.h"

namespace upcycle {
namespace {

void add_batch(Server& server, std::int64_t PP, std::int64_t max_tokens, std::int64_t B, std::int64_t vocab_size) {
  for (std::int64_t id = 0; id < B; ++id) {
    Request r;
    r.id = id;
    r.max_tokens = max_tokens;
    r.sampling.temperature = 0;
    r.prompt = random_prompt(PP, vocab_size, 1, rng::key_of("offline prompt"), static_cast<std::uint64_t>(id));
    server.add(std::move(r));
  }
}

}  // namespace

std::optional<OfflineRow> measure_offline(Server& server, std::int64_t PP, std::int64_t TG, std::int64_t B,
                                          std::int64_t vocab_size, std::int64_t max_model_len) {
  OfflineRow row{PP, TG, B, 0, 0};
  // Prompts alone: each request ends with its first token.
  if (PP + 1 > max_model_len) return {};
  add_batch(server, PP, 1, B, vocab_size);
  std::int64_t prompt_steps = 0;
  const double begin = server.now();
  for (; server.busy(); ++prompt_steps) server.step();
  row.T_PP = server.now() - begin;
  // Decoding alone: from the step in which all have their first token. The first to be read decodes meanwhile, which
  // takes room from the others' prompts, and must outlast the TG steps that are measured.
  const std::int64_t max_tokens = prompt_steps + prompt_steps / 2 + TG + 1;
  if (PP + max_tokens > max_model_len) return {};
  add_batch(server, PP, max_tokens, B, vocab_size);
  std::int64_t steps = 0;
  double decoding_since = 0;
  bool together = false;
  std::vector<bool> started(static_cast<std::size_t>(B));
  std::int64_t left = B;
  bool preempted = false;
  while (server.busy() && steps < TG && !preempted) {
    const StepReport& report = server.step();
    preempted = report.preemptions > 0;
    if (together) {
      preempted = preempted || static_cast<std::int64_t>(report.tokens.size()) != B;
      ++steps;
      continue;
    }
    for (const EmittedToken& token : report.tokens) {
      if (!started[static_cast<std::size_t>(token.id)]) --left;
      started[static_cast<std::size_t>(token.id)] = true;
    }
    together = left == 0;
    decoding_since = server.now();
  }
  row.T_TG = server.now() - decoding_since;
  for (std::int64_t id = 0; id < B; ++id) server.cancel(id);
  if (preempted || steps < TG) return {};
  return row;
}

}  // namespace upcycle
