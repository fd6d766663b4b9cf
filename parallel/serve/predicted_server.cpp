#include "parallel/serve/predicted_server.h"

#include <algorithm>
#include <cmath>

#include "parallel/serve/replicas.h"

namespace upcycle {
namespace {

class PredictedServer final : public Server {
 public:
  PredictedServer(CostModel cost, const SchedulerOptions& options)
      : cost_(std::move(cost)), replicas_(cost_.replicas(), options) {}

  void add(Request request) override { replicas_.add(std::move(request)); }
  bool cancel(std::int64_t id) override { return replicas_.cancel(id); }
  bool busy() const override { return replicas_.busy(); }
  const StepReport& step() override;
  double now() override { return now_; }
  void wait_until(double time) override { now_ = std::max(now_, time); }

 private:
  CostModel cost_;
  Replicas replicas_;
  std::vector<std::int32_t> drawn_;
  StepReport report_;
  double now_ = 0;
};

const StepReport& PredictedServer::step() {
  StepReport& r = report_;
  replicas_.schedule(r);
  const StepCost c = cost_.cost(replicas_.plans());
  now_ += c.seconds();
  r.experts_touched = std::llround(c.experts_touched);
  r.assignments = cost_.assignments(r.rows);
  r.weight_bytes = c.weight_bytes;
  for (std::size_t d = 0; d < replicas_.plans().size(); ++d) {
    drawn_.assign(static_cast<std::size_t>(replicas_.draws(d)), -1);
    replicas_.complete(d, drawn_, r);
  }
  return r;
}

}  // namespace

std::unique_ptr<Server> make_predicted_server(CostModel cost, const SchedulerOptions& options) {
  return std::make_unique<PredictedServer>(std::move(cost), options);
}

}  // namespace upcycle
