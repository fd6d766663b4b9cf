#include "parallel/plan/fit.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>

#include "core/config/batch_ramp.h"
#include "core/error.h"

namespace upcycle {
namespace {

constexpr std::int64_t kMostSequences = 64;  // of a micro batch: products gain nothing from more

FitOption option_of(const Plan& plan, const PlannedRun& run, const StepRates& rates) {
  FitOption o;
  o.layout = plan.layout;
  o.micro_batch_size = run.config.train.micro_batch_size;
  o.recompute = run.config.train.recompute;
  o.bytes = plan.peak_bytes();
  for (const MemoryClass& m : plan.memory)
    if (!m.beside_gpu && m.bytes > o.largest_bytes) o.largest = m.name, o.largest_bytes = m.bytes;
  o.time = step_time(plan, rates);
  return o;
}

// A run of this layout. Activations grow with the micro batch, so where one does not fit with everything recomputed, no
// larger one does.
struct Tried {
  std::optional<FitOption> best;  // of those that fit
  FitOption least;
};
Tried try_layout(PlannedRun run, const Layout& layout, const FitLimits& limits, const StepRates& rates) {
  Tried tried;
  TrainConfig& train = run.config.train;
  std::int64_t sequences = train.global_batch_size / layout.dp;
  if (ramps_batch(train)) sequences = std::gcd(sequences, train.rampup_batch_size[0] / layout.dp);
  if (ramps_batch(train)) sequences = std::gcd(sequences, train.rampup_batch_size[1] / layout.dp);
  for (std::int64_t micro = 1; micro <= kMostSequences && sequences % micro == 0; micro *= 2) {
    train.micro_batch_size = micro;
    bool fits = false;
    for (const char* recompute : {"none", "selective", "full"}) {
      train.recompute = recompute;
      const FitOption o = option_of(make_plan(run, layout, 0), run, rates);
      if (tried.least.bytes == 0 || o.bytes < tried.least.bytes) tried.least = o;
      fits = o.bytes <= limits.memory;
      if (fits && (!tried.best || o.time.total() < tried.best->time.total())) tried.best = o;
      if (fits) break;  // the next ones compute more
    }
    if (!fits) break;
  }
  return tried;
}

std::vector<int> divisors(int n) {
  std::vector<int> d;
  for (int i = 1; i <= n; ++i)
    if (n % i == 0) d.push_back(i);
  return d;
}

}  // namespace

std::vector<Layout> layouts_of(int world, bool moe) {
  std::vector<Layout> layouts;
  for (const int tp : divisors(world))
    for (const int etp : tp == 1 || !moe ? std::vector{1} : std::vector{1, tp})
      for (const int ep : divisors(moe ? world / etp : 1))
        layouts.push_back({world, tp, world / tp, ep, etp, world / (ep * etp)});
  return layouts;
}

PlannedRun with_layout(PlannedRun run, const Layout& layout) {
  run.config.parallel.tp = layout.tp;
  run.config.parallel.ep = layout.ep;
  run.config.parallel.etp = layout.etp;
  return run;
}

Fit fit_layouts(const PlannedRun& given, const FitLimits& limits, const StepRates& rates) {
  Fit fit;
  std::map<std::string, std::vector<Layout>> refused;
  for (const Layout& layout : layouts_of(limits.world, given.config.model.is_moe())) {
    PlannedRun run = with_layout(given, layout);
    run.config.train.micro_batch_size = 1;
    if (const std::string problem = layout_problem(run, layout); !problem.empty()) {
      refused[problem].push_back(layout);
      continue;
    }
    const Tried tried = try_layout(run, layout, limits, rates);
    (tried.best ? fit.fits : fit.too_large).push_back(tried.best ? *tried.best : tried.least);
  }
  std::ranges::stable_sort(fit.fits, {}, [](const FitOption& o) { return o.time.total(); });
  std::ranges::stable_sort(fit.too_large, {}, &FitOption::bytes);
  for (auto& [reason, layouts] : refused) fit.refused.push_back({reason, std::move(layouts)});
  std::ranges::stable_sort(fit.refused, std::greater{}, [](const Fit::Refused& r) { return r.layouts.size(); });
  return fit;
}

namespace {

struct Change {
  std::vector<std::string> keys;
  std::function<void(Config&)> make;
};

// That this run does not have yet and can have.
std::vector<Change> changes_of(const PlannedRun& run) {
  const Config& c = run.config;
  const TrainConfig& t = c.train;
  std::vector<Change> changes;
  if (t.zero_stage == 1) changes.push_back({{"train.zero_stage=2"}, [](Config& x) { x.train.zero_stage = 2; }});
  if (c.device == "cuda" && !t.optimizer_offload && t.master_dtype == "fp32" &&
      (t.moments() > 0 || c.storage() == DType::BF16))
    changes.push_back({{"train.optimizer_offload=true"}, [](Config& x) { x.train.optimizer_offload = true; }});

  Change less{{}, [](Config& x) {
                if (x.storage() == DType::BF16 && !x.train.optimizer_offload) x.train.master_dtype = "bf16_remainder";
                if (x.train.moments() > 0) x.train.moment_dtype = "bf16";
                x.train.gradient_dtype = "bf16";
              }};
  Config after = c;
  less.make(after);
  if (after.train.master_dtype != t.master_dtype) less.keys.emplace_back("train.master_dtype=bf16_remainder");
  if (after.train.moment_dtype != t.moment_dtype) less.keys.emplace_back("train.moment_dtype=bf16");
  if (after.train.gradient_dtype != t.gradient_dtype) less.keys.emplace_back("train.gradient_dtype=bf16");
  if (!less.keys.empty()) changes.push_back(less);

  const ModelConfig& m = c.model;
  if (!m.is_moe()) return changes;
  if (m.num_local_experts % 2 == 0 && m.num_local_experts / 2 > m.num_experts_per_tok)
    changes.push_back({{fmt::format("model.num_local_experts={}", m.num_local_experts / 2)},
                       [](Config& x) { x.model.num_local_experts /= 2; }});
  if (m.num_hidden_layers % (2 * m.moe_every_n_layers) == 0)
    changes.push_back({{fmt::format("model.moe_every_n_layers={}", 2 * m.moe_every_n_layers)},
                       [](Config& x) { x.model.moe_every_n_layers *= 2; }});
  return changes;
}

}  // namespace

std::vector<Remedy> find_remedies(const PlannedRun& run, const FitLimits& limits, const StepRates& rates) {
  std::vector<Remedy> remedies;
  for (const Change& change : changes_of(run)) {
    PlannedRun changed = run;
    change.make(changed.config);
    const Fit fit = fit_layouts(changed, limits, rates);
    if (!fit.fits.empty()) remedies.push_back({change.keys, fit.fits.front()});
  }
  return remedies;
}

}  // namespace upcycle
