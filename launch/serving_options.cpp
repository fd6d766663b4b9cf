#include "launch/serving_options.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/suggest.h"
#include "launch/options.h"
#include "parallel/model/rope.h"
#include "parallel/serve/engine.h"
#include "parallel/serve/engine_buffers.h"

namespace upcycle {
namespace {

SchedulingPolicy parse_policy(const std::string& text) {
  if (text == "mixed") return SchedulingPolicy::Mixed;
  if (text == "prefill_first") return SchedulingPolicy::PrefillFirst;
  input_error("command line: --policy: found {}, expected mixed or prefill_first", quote_text(text));
}

void check_at_least(const char* option, std::int64_t found, std::int64_t least) {
  if (found < least) input_error("command line: {}: found {}, expected {} or more", option, found, least);
}

}  // namespace

void add_serving_options(Options& options, ServingOptions& s) {
  options.option("--policy", s.policy,
                 "mixed: decoding and chunks of prompts in one step; prefill_first: whole prompts before decoding");
  options.option("--max-num-seqs", s.max_num_seqs, "sequences that run at once, of each replica");
  options.option("--max-num-batched-tokens", s.max_num_batched_tokens,
                 "tokens of a step; 0: 2048, with prefill_first at least max-model-len");
  options.option("--max-model-len", s.max_model_len,
                 "longest sequence, prompt and new tokens; 0: the model's max_position_embeddings");
  options.option("--block-size", s.block_size, "tokens of a page of the cache: 8, 16, 32 or 64");
  options.option("--memory", s.memory,
                 "of each rank, for weights, cache and a step (80GiB); by default nine tenths of what is free");
}

SchedulerOptions scheduler_options(const ServingOptions& s, const ModelConfig& model, const Layout& layout, DType dtype,
                                   DeviceKind computes, std::size_t available, const WorkspaceBytes& workspace_bytes) {
  SchedulerOptions o;
  o.policy = parse_policy(s.policy);
  check_at_least("--max-num-seqs", s.max_num_seqs, 1);
  check_at_least("--max-num-batched-tokens", s.max_num_batched_tokens, 0);
  check_at_least("--max-model-len", s.max_model_len, 0);
  if (s.max_model_len == 1)
    input_error("command line: --max-model-len: found 1, expected 2 or more: a token and the next");
  if (s.block_size != 8 && s.block_size != 16 && s.block_size != 32 && s.block_size != 64)
    input_error("command line: --block-size: found {}, expected 8, 16, 32 or 64", s.block_size);
  if (s.max_model_len > model.max_position_embeddings)
    input_error("command line: --max-model-len: found {}, expected at most the model's max_position_embeddings = {}",
                s.max_model_len, model.max_position_embeddings);
  o.max_model_len = s.max_model_len > 0 ? s.max_model_len : model.max_position_embeddings;
  check_sequence_length(model, 1, o.max_model_len, "command line: --max-model-len");
  o.max_num_batched_tokens = s.max_num_batched_tokens;
  if (o.max_num_batched_tokens == 0)
    o.max_num_batched_tokens = std::max<std::int64_t>(
        {2048, s.max_num_seqs, o.policy == SchedulingPolicy::PrefillFirst ? o.max_model_len : 0});
  o.max_num_seqs = s.max_num_seqs;
  if (o.max_num_batched_tokens < o.max_num_seqs)
    input_error(
        "command line: --max-num-batched-tokens: found {}, expected at least --max-num-seqs = {}: each sequence "
        "decodes "
        "one token per step",
        o.max_num_batched_tokens, o.max_num_seqs);
  o.page_rows = s.block_size;
  const std::int64_t longest = (o.max_model_len + o.page_rows - 1) / o.page_rows;  // pages of a sequence
  o.pages = 0;
  std::size_t beside = 0;
  for (const MemoryClass& c : engine_memory(model, layout, 0, dtype, o, computes, workspace_bytes))
    if (!c.beside_gpu) beside += c.bytes;
  const std::size_t memory = s.memory.empty() ? available : parse_bytes("--memory", s.memory);
  // A page's keys and values of each layer are parts of tensors that begin at multiples of the arena's alignment.
  const std::size_t slack = static_cast<std::size_t>(2 * model.num_hidden_layers) * Arena::kAlignment;
  const std::size_t page = page_bytes(model, layout, dtype, o.page_rows);
  const std::size_t left = memory > beside + slack ? memory - beside - slack : 0;
  const std::int64_t numbered =
      std::numeric_limits<std::int32_t>::max() / o.page_rows;  // rows of the cache have int32 numbers
  o.pages = std::min({static_cast<std::int64_t>(left / page), longest * o.max_num_seqs, numbered});
  if (o.pages < longest)
    input_error(
        "{}: found {} bytes per rank: weights and a step take {}, and {} are left for the cache, expected at least {} "
        "for "
        "one sequence of max-model-len = {}; give more memory, lower --max-model-len or --max-num-batched-tokens, or "
        "use "
        "more ranks (--parallel.tp, --parallel.ep)",
        s.memory.empty() ? "free memory" : "command line: --memory", memory, beside, left,
        page * static_cast<std::size_t>(longest), o.max_model_len);
  return o;
}

}  // namespace upcycle
