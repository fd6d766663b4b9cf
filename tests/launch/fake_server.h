#pragma once
#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/serve/server.h"

namespace upcycle {

// A server whose capacity is known: `slots` requests at a time, each gets a token in every step, and a step takes
// `step_seconds` of a clock that only this moves, or `prompt_seconds` more for each token of a prompt that it reads.
class FakeServer : public Server {
 public:
  FakeServer(std::int64_t slots, double step_seconds, double prompt_seconds = 0)
      : slots_(slots), step_seconds_(step_seconds), prompt_seconds_(prompt_seconds) {}

  std::int64_t longest = 1 << 20;  // prompt and new tokens; longer requests are refused
  std::int64_t fails_every = 0;    // each n-th request ends in a failure at its first step

  void add(Request request) override {
    if (static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens > longest)
      input_error("request {}: too long", request.id);
    waiting_.push_back({std::move(request), 0});
  }
  bool cancel(std::int64_t id) override {
    const auto is = [&](const Item& i) { return i.request.id == id; };
    return std::erase_if(running_, is) + std::erase_if(waiting_, is) > 0;
  }
  bool busy() const override { return !(running_.empty() && waiting_.empty()); }
  const StepReport& step() override {
    report_ = {};
    report_.waiting = static_cast<std::int64_t>(waiting_.size());
    now_ += step_seconds_;
    while (!waiting_.empty() && static_cast<std::int64_t>(running_.size()) < slots_) {
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
      report_.prompt_rows += static_cast<std::int64_t>(running_.back().request.prompt.size());
    }
    now_ += prompt_seconds_ * static_cast<double>(report_.prompt_rows);
    report_.running = report_.sequences = static_cast<std::int64_t>(running_.size());
    report_.rows = report_.prompt_rows;
    for (Item& i : running_) {
      const bool failed = fails_every > 0 && i.request.id % fails_every == 0;
      ++i.done;
      ++report_.rows;
      report_.tokens.push_back({i.request.id, failed ? -1 : 1,
                                failed                           ? FinishReason::Failed
                                : i.done == i.request.max_tokens ? FinishReason::Length
                                                                 : FinishReason::None});
      if (failed) i.done = i.request.max_tokens;
    }
    report_.experts_touched = 2;
    report_.assignments = 2 * report_.rows;
    report_.weight_bytes = 1000;
    std::erase_if(running_, [](const Item& i) { return i.done == i.request.max_tokens; });
    return report_;
  }
  double now() override { return now_; }
  void wait_until(double time) override { now_ = std::max(now_, time); }

 private:
  struct Item {
    Request request;
    std::int64_t done;
  };
  std::int64_t slots_;
  double step_seconds_, prompt_seconds_, now_ = 100;
  std::deque<Item> waiting_;
  std::vector<Item> running_;
  StepReport report_;
};

}  // namespace upcycle
