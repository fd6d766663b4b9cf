#include "parallel/serve/predicted_server.h"

#include <algorithm>
#include <cmath>

namespace upcycle {
namespace {

class PredictedServer final : public Server {
 public:
  PredictedServer(CostModel cost, const SchedulerOptions& options) : cost_(std::move(cost)) {
    for (int d = 0; d < cost_.replicas(); ++d) schedulers_.emplace_back(options);
    plans_.resize(schedulers_.size());
  }

  void add(Request request) override {
    const auto least = std::min_element(schedulers_.begin(), schedulers_.end(),
                                        [](const Scheduler& a, const Scheduler& b) { return a.load() < b.load(); });
    least->add(std::move(request));
  }
  bool cancel(std::int64_t id) override {
    return std::any_of(schedulers_.begin(), schedulers_.end(), [&](Scheduler& s) { return s.cancel(id); });
  }
  bool busy() const override {
    return std::any_of(schedulers_.begin(), schedulers_.end(), [](const Scheduler& s) { return s.busy(); });
  }
  const StepReport& step() override;
  double now() override { return now_; }
  void wait_until(double time) override { now_ = std::max(now_, time); }

 private:
  std::int64_t preemptions() const {
    std::int64_t sum = 0;
    for (const Scheduler& s : schedulers_) sum += s.preemptions();
    return sum;
  }

  CostModel cost_;
  std::vector<Scheduler> schedulers_;
  std::vector<std::span<const ScheduledRows>> plans_;
  std::vector<std::int32_t> drawn_;
  StepReport report_;
  double now_ = 0;
};

const StepReport& PredictedServer::step() {
  StepReport& r = report_;
  std::vector<EmittedToken> tokens = std::move(r.tokens);
  tokens.clear();
  r = {};
  r.tokens = std::move(tokens);
  r.preemptions = -preemptions();
  for (std::size_t d = 0; d < schedulers_.size(); ++d) {
    plans_[d] = schedulers_[d].schedule();
    r.waiting += schedulers_[d].waiting();
    r.running += schedulers_[d].running();
    for (const ScheduledRows& part : plans_[d]) {
      r.rows += part.rows;
      const auto prompt = static_cast<std::int64_t>(part.sequence->request.prompt.size());
      r.prompt_rows += std::clamp(prompt - part.begin, std::int64_t{0}, part.rows);
      ++r.sequences;
    }
  }
  r.preemptions += preemptions();
  const StepCost c = cost_.cost(plans_);
  now_ += c.seconds();
  r.experts_touched = std::llround(c.experts_touched);
  r.assignments = cost_.assignments(r.rows);
  r.weight_bytes = c.weight_bytes;
  for (std::size_t d = 0; d < schedulers_.size(); ++d) {
    const auto draws =
        std::count_if(plans_[d].begin(), plans_[d].end(), [](const ScheduledRows& p) { return p.samples; });
    drawn_.assign(static_cast<std::size_t>(draws), -1);
    const std::span<const EmittedToken> emitted = schedulers_[d].complete(drawn_);
    r.tokens.insert(r.tokens.end(), emitted.begin(), emitted.end());
  }
  return r;
}

}  // namespace

std::unique_ptr<Server> make_predicted_server(CostModel cost, const SchedulerOptions& options) {
  return std::make_unique<PredictedServer>(std::move(cost), options);
}

}  // namespace upcycle
