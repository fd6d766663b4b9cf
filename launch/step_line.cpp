#include "launch/step_line.h"

#include <fmt/core.h>

#include <algorithm>

#include "core/config/batch_ramp.h"

namespace upcycle {
namespace {

std::string clock_text(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds);
  return fmt::format("{:02d}:{:02d}:{:02d}", s / 3600, s / 60 % 60, s % 60);
}

// So many columns that the last step's number fits.
std::string step_text(const StepPace& p) {
  const std::string total = fmt::format("{}", p.total);
  return fmt::format("step {:>{}}/{}", p.step, total.size(), total);
}

}  // namespace

double most_load(const StepResult& r) {
  double most = 0;
  for (const RouterMetrics& layer : r.layers) most = std::max(most, layer.load_max_over_mean);
  return most;
}

std::string step_line(const Config& config, const StepResult& r, const StepPace& p) {
  const ModelConfig& model = config.model;
  std::string line = step_text(p);
  if (ramps_batch(config.train)) {
    const std::string whole = fmt::format("{}", config.train.global_batch_size);
    line += fmt::format("  batch {:>{}}", r.samples, whole.size());
  }
  line += fmt::format("  loss {:7.4f}", r.loss);
  if (model.is_moe()) {
    line += fmt::format("  aux {:6.3f}", r.aux_loss);
    if (model.router_z_loss_coef > 0) line += fmt::format("  z {:6.3f}", r.z_loss);
  }
  line += fmt::format("  lr {:.2e}  grad norm {:7.3f}  {:8.0f} tokens/s  mfu {:3.0f} %  mem {:6.2f} GiB", r.lr,
                      r.grad_norm, p.tokens_per_s, 100 * p.mfu, static_cast<double>(p.memory) / (1 << 30));
  if (model.is_moe()) line += fmt::format("  load {:5.2f}", most_load(r));
  return line + fmt::format("  {} left", clock_text(p.seconds_left));
}

std::string progress_bar(const StepResult& r, const StepPace& p) {
  constexpr std::int64_t kWidth = 24;
  const std::int64_t done = p.total > 0 ? std::clamp<std::int64_t>(kWidth * p.step / p.total, 0, kWidth) : kWidth;
  return fmt::format("[{}{}] {:3d} %  {}  loss {:.4f}  {} left", std::string(static_cast<std::size_t>(done), '#'),
                     std::string(static_cast<std::size_t>(kWidth - done), '.'),
                     p.total > 0 ? 100 * p.step / p.total : 100, step_text(p), r.loss, clock_text(p.seconds_left));
}

}  // namespace upcycle
