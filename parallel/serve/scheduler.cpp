#include "parallel/serve/scheduler.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

std::int64_t length(const Sequence& s) { return static_cast<std::int64_t>(s.tokens.size()); }
std::int64_t prompt_length(const Request& r) { return static_cast<std::int64_t>(r.prompt.size()); }

// Tokens that are still to be computed or drawn.
std::int64_t remaining(const Sequence& s) { return prompt_length(s.request) + s.request.max_tokens - s.computed; }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options), pool_(options.pages) {
  const auto at_least = [](const char* name, std::int64_t found, std::int64_t least) {
    if (found < least) input_error("{} is {}, expected at least {}", name, found, least);
  };
  at_least("max_num_seqs", options.max_num_seqs, 1);
  at_least("max_model_len", options.max_model_len, 2);
  at_least("page_rows", options.page_rows, 1);
  at_least("pages", options.pages, 1);
  if (options.max_num_batched_tokens < options.max_num_seqs)
    input_error(
        "max_num_batched_tokens is {}, expected at least max_num_seqs, {}: each sequence decodes one token per step",
        options.max_num_batched_tokens, options.max_num_seqs);
  const auto most = static_cast<std::size_t>(options.max_num_seqs);
  running_.reserve(most);
  step_.reserve(most);
  emitted_.reserve(most);
}

std::int64_t Scheduler::pages_for(std::int64_t rows) const {
  return (rows + options_.page_rows - 1) / options_.page_rows;
}

std::string Scheduler::refusal(std::int64_t prompt, std::int64_t max_tokens) const {
  if (prompt < 1) return "a prompt of no tokens, expected at least one";
  if (max_tokens < 1) return fmt::format("max_tokens is {}, expected at least 1", max_tokens);
  const auto line = [&](const std::string& expected) {
    return fmt::format("a prompt of {} tokens and max_tokens {}, expected {}", prompt, max_tokens, expected);
  };
  if (prompt > options_.max_model_len - max_tokens)
    return line(fmt::format("at most {} together (max_model_len)", options_.max_model_len));
  const std::int64_t rows = prompt + max_tokens - 1;  // the last token is drawn, and never computed
  if (pages_for(rows) > options_.pages)
    return line(fmt::format("at most {} together: the cache has {} pages of {} tokens",
                            options_.pages * options_.page_rows + 1, options_.pages, options_.page_rows));
  // What loses its pages is computed again with its new tokens, as one prompt.
  if (options_.policy == SchedulingPolicy::PrefillFirst && rows > options_.max_num_batched_tokens)
    return line(fmt::format("at most {} together: prefill_first computes whole prompts under max_num_batched_tokens {}",
                            options_.max_num_batched_tokens + 1, options_.max_num_batched_tokens));
  return "";
}

void Scheduler::add(Request request) {
  const std::string refused = refusal(prompt_length(request), request.max_tokens);
  if (!refused.empty()) input_error("request {}: {}", request.id, refused);
  auto s = std::make_unique<Sequence>();
  // All that it will ever hold, so that decoding allocates nothing.
  const std::int64_t most = prompt_length(request) + request.max_tokens;
  s->tokens.reserve(static_cast<std::size_t>(most));
  s->tokens.assign(request.prompt.begin(), request.prompt.end());
  s->pages.reserve(static_cast<std::size_t>(pages_for(most - 1)));
  s->request = std::move(request);
  load_ += remaining(*s);
  waiting_.push_back(std::move(s));
}

bool Scheduler::cancel(std::int64_t id) {
  UPCYCLE_CHECK(step_.empty(), "request {} is cancelled while a step is computed", id);
  const auto remove_from = [&](auto& queue) {
    const auto at = std::find_if(queue.begin(), queue.end(), [&](const auto& s) { return s->request.id == id; });
    if (at == queue.end()) return false;
    release(**at);
    load_ -= remaining(**at);
    queue.erase(at);
    return true;
  };
  return remove_from(running_) || remove_from(waiting_);
}

// Its pages back; its tokens are to be computed again.
void Scheduler::release(Sequence& s) {
  load_ += s.computed;
  s.computed = 0;
  pool_.give_back(s.pages);
}

bool Scheduler::extend(Sequence& s, std::int64_t rows, std::int64_t kept_free) {
  const std::int64_t more = pages_for(rows) - static_cast<std::int64_t>(s.pages.size());
  if (more > 0 && more > pool_.free() - kept_free) return false;
  for (std::int64_t i = 0; i < more; ++i) s.pages.push_back(pool_.take());
  return true;
}

void Scheduler::preempt_last() {
  release(*running_.back());
  ++running_.back()->preemptions;
  ++preemptions_;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

void Scheduler::compute(const Sequence& s, std::int64_t rows) {
  step_.push_back({&s, s.computed, rows, s.computed + rows == length(s)});
}

// Running and waiting requests stand in the order of their arrival, and the first of all can take every other one's
// pages: it always gets on, so nothing waits for ever.
void Scheduler::schedule_running(std::int64_t& budget) {
  for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& s = *running_[i];
    const std::int64_t rows = std::min(budget, length(s) - s.computed);
    while (!extend(s, s.computed + rows, 0)) {
      preempt_last();
      if (i == running_.size()) return;  // it was the last itself
    }
    compute(s, rows);
    budget -= rows;
  }
}

void Scheduler::admit(std::int64_t& budget) {
  const bool whole = options_.policy == SchedulingPolicy::PrefillFirst;
  while (!waiting_.empty() && budget > 0 && running() < options_.max_num_seqs) {
    Sequence& s = *waiting_.front();
    if (whole && length(s) > budget) return;
    const std::int64_t rows = std::min(budget, length(s));
    // A prompt gets the pages of all its chunks at once, or its later ones would cost it the earlier ones' work; and it
    // leaves those that run some pages to grow into (vLLM's watermark).
    const std::int64_t kept_free = running_.empty() ? 0 : options_.pages / 100;
    if (!extend(s, length(s), kept_free)) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    compute(s, rows);
    budget -= rows;
  }
}

std::span<const ScheduledRows> Scheduler::schedule() {
  UPCYCLE_CHECK(step_.empty(), "the step before was not completed");
  std::int64_t budget = options_.max_num_batched_tokens;
  if (options_.policy == SchedulingPolicy::PrefillFirst) {
    admit(budget);
    if (step_.empty()) schedule_running(budget);
  } else {
    const std::int64_t before = preemptions_;
    schedule_running(budget);
    if (preemptions_ == before) admit(budget);  // else they would take back at once what was just freed
  }
  return step_;
}

std::span<const EmittedToken> Scheduler::complete(std::span<const std::int32_t> sampled) {
  emitted_.clear();
  for (const ScheduledRows& part : step_) {
    auto& s = const_cast<Sequence&>(*part.sequence);  // ours
    s.computed += part.rows;
    load_ -= part.rows;
    if (!part.samples) continue;
    UPCYCLE_CHECK(emitted_.size() < sampled.size(), "{} tokens for a step that samples more", sampled.size());
    const std::int32_t token = sampled[emitted_.size()];
    s.tokens.push_back(token);
    const Request& r = s.request;
    const FinishReason finished = std::find(r.stop.begin(), r.stop.end(), token) != r.stop.end() ? FinishReason::Stop
                                  : s.new_tokens() == r.max_tokens                               ? FinishReason::Length
                                                                                                 : FinishReason::None;
    emitted_.push_back({r.id, token, finished});
    if (finished == FinishReason::None) continue;
    load_ -= remaining(s);
    pool_.give_back(s.pages);
  }
  UPCYCLE_CHECK(emitted_.size() == sampled.size(), "{} tokens for a step that samples {}", sampled.size(),
                emitted_.size());
  step_.clear();
  // What runs has pages, but for what just ended.
  std::erase_if(running_, [](const auto& s) { return s->pages.empty(); });
  return emitted_;
}

}  // namespace upcycle
