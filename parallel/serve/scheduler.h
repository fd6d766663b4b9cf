#pragma once
#include <deque>
#include <memory>
#include <span>
#include <string>

#include "parallel/serve/page_pool.h"
#include "parallel/serve/request.h"

// Continuous batching (Orca, OSDI 2022; vLLM): which rows of which sequences a step computes. Knows no model and no
// device, so the prediction runs the same one.
namespace upcycle {

// mixed          decoding and chunks of prompts in one step under the token budget (vLLM V1; arXiv 2403.02310)
// prefill_first  whole prompts before any decoding, as many as the token budget holds (vLLM 0.6.2's default)
enum class SchedulingPolicy : std::uint8_t { Mixed, PrefillFirst };

struct SchedulerOptions {
  SchedulingPolicy policy = SchedulingPolicy::Mixed;
  std::int64_t max_num_seqs = 256;             // that run at once
  std::int64_t max_num_batched_tokens = 2048;  // rows of a step
  std::int64_t max_model_len = 0;              // tokens of a sequence, prompt and new ones
  std::int64_t pages = 0, page_rows = 16;      // of the cache
};

// A request under way.
struct Sequence {
  Request request;
  std::vector<std::int32_t> tokens;  // the prompt, then the new ones
  std::vector<std::int32_t> pages;   // of the cache, in order
  std::int64_t computed = 0;         // tokens whose keys and values are in the cache
  std::int64_t preemptions = 0;      // times it lost its pages, to be computed again
  std::int64_t new_tokens() const { return static_cast<std::int64_t>(tokens.size() - request.prompt.size()); }
};

// A sequence's part of a step: its tokens [begin, begin + rows), which have pages.
struct ScheduledRows {
  const Sequence* sequence = nullptr;
  std::int64_t begin = 0, rows = 0;
  bool samples = false;  // the last row is the sequence's last token: the next one is drawn from its logits
};

// Ended and Failed come without a token, from servers elsewhere only. Ended: the token before was the last. Failed: the
// server gave the request up.
enum class FinishReason : std::uint8_t { None, Length, Stop, Ended, Failed };

// A token that a step gave a request.
struct EmittedToken {
  std::int64_t id = 0;
  std::int32_t token = 0;
  FinishReason finished = FinishReason::None;  // not None: its last
};

class Scheduler {
 public:
  // Throws InputError where an option is impossible.
  explicit Scheduler(const SchedulerOptions& options);
  Scheduler(Scheduler&&) noexcept = default;  // a vector of them grows by moving
  Scheduler& operator=(Scheduler&&) noexcept = default;

  // Why a request of this size can never be served, as one line naming found and expected; empty if it can.
  std::string refusal(std::int64_t prompt, std::int64_t max_tokens) const;
  // Queues it, first come first served. Throws InputError where it is refused.
  void add(Request request);
  // Ends it without more tokens, wherever it is; false if it is not here (any more). Not between `schedule` and
  // `complete`.
  bool cancel(std::int64_t id);

  // Chooses the next step and gives its rows pages; where pages run out, the sequences that came last lose theirs and
  // wait to be computed again (preemption by recomputation). Empty: nothing to do. Valid until `complete`, which has
  // to follow.
  std::span<const ScheduledRows> schedule();
  // The step was computed; `sampled` has a token for each of its rows that samples, in order. Valid until the next
  // call.
  std::span<const EmittedToken> complete(std::span<const std::int32_t> sampled);

  bool busy() const { return !waiting_.empty() || !running_.empty(); }                 // anything waits or runs
  std::int64_t waiting() const { return static_cast<std::int64_t>(waiting_.size()); }  // requests without pages
  std::int64_t running() const { return static_cast<std::int64_t>(running_.size()); }  // with pages
  std::int64_t load() const { return load_; }  // tokens still to compute or draw, of all: to choose among replicas
  std::int64_t free_pages() const { return pool_.free(); }
  std::int64_t preemptions() const { return preemptions_; }  // so far
  const SchedulerOptions& options() const { return options_; }

 private:
  std::int64_t pages_for(std::int64_t rows) const;
  bool extend(Sequence& s, std::int64_t rows, std::int64_t kept_free);  // false: too few pages, and nothing changed
  void release(Sequence& s);
  void preempt_last();
  void compute(const Sequence& s, std::int64_t rows);
  void schedule_running(std::int64_t& budget);
  void admit(std::int64_t& budget);

  SchedulerOptions options_;
  PagePool pool_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // both in the order of arrival,
  std::vector<std::unique_ptr<Sequence>> running_;  // and these arrived before all that wait
  std::vector<ScheduledRows> step_;
  std::vector<EmittedToken> emitted_;
  std::int64_t load_ = 0, preemptions_ = 0;
};

}  // namespace upcycle
