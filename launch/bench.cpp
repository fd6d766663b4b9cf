#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/log.h"
#include "core/rng.h"
#include "core/trace.h"
#include "launch/commands.h"
#include "launch/common.h"
#include "launch/metrics.h"
#include "launch/options.h"
#include "launch/ranks.h"
#include "launch/same_start.h"
#include "parallel/comm/agree.h"
#include "parallel/train/trainer.h"

namespace upcycle {
namespace {

// Whole training steps on random tokens and random weights: forward, backward, clip, update.
int bench_step(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
               std::int64_t steps, std::int64_t warmup, bool json) {
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  const auto ops = make_cpu_ops();
  const Start start = agree_on_start(session, *stream, "bench step", [&] {
    Config c = parse_config(file, overrides);
    c.train.steps = steps + warmup;
    c.train.tokens = 0;
    c.train.schedule = "constant";  // any training config can be measured
    c.train.warmup_steps = 0;
    c.checkpoint.dir.clear();
    check_model(c.model, file.empty() ? "the config" : file);
    check_train(c);
    return c;
  });
  const Config& c = start.config;
  const Layout& layout = start.layout;
  const Mesh mesh = make_mesh(session, layout, *stream);
  Trainer t;
  double peak = 0;
  agree_or_throw(*mesh.world, [&] {
    check_fits_machine(plan_trainer(c, mesh, *ops));
    peak = measure_peak_flops(*device, *stream, *ops, c.storage()) * layout.world;
    t = make_trainer(c, mesh, *device, *stream, *ops);
  });
  initialize_weights(t.model->table, static_cast<std::uint64_t>(c.seed), t.memory.weights.dense,
                     t.memory.weights.expert);
  masters_from_weights(t.optimizer, t.memory);
  const SequenceSource source = [&](std::int64_t index, std::span<std::int32_t> tokens,
                                    std::span<std::int32_t> targets) {
    const auto V = static_cast<std::uint64_t>(c.model.vocab_size);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<std::int32_t>(rng::below(V, 1, static_cast<std::uint64_t>(index), i));
      targets[i] = static_cast<std::int32_t>(rng::below(V, 1, static_cast<std::uint64_t>(index), i + 1));
    }
  };
  std::vector<double> seconds;
  StepResult last;
  for (std::int64_t i = 0; i < steps + warmup; ++i) {
    if (i == warmup) reset_trace_counters();
    const auto begin = std::chrono::steady_clock::now();
    last = train_step(t, source);
    if (i >= warmup) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  // Of the rank that stands still longest for the others, in its collectives.
  const double comm_share =
      mesh.world->max_of(trace_counters().wait_seconds() / std::accumulate(seconds.begin(), seconds.end(), 0.0));
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2], tokens = static_cast<double>(last.tokens);
  const double flops = tokens * training_flops_per_token(c.model, c.train.seq_length);
  const ParameterCount count = count_parameters(c.model);
  if (session.rank() != 0) return 0;
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"tokens_per_s", tokens / median},
                                              {"step_ms", median * 1e3},
                                              {"best_tokens_per_s", tokens / seconds.front()},
                                              {"best_step_ms", seconds.front() * 1e3},
                                              {"gflops", flops / median / 1e9},
                                              {"peak_gflops", peak / 1e9},
                                              {"mfu", flops / median / peak},
                                              {"comm_share", comm_share},
                                              {"parameters", count.total},
                                              {"active_parameters", count.active},
                                              {"tokens", last.tokens},
                                              {"steps", steps},
                                              {"dtype", c.dtype},
                                              {"loss", last.loss}}
                           .dump());
  } else {
    fmt::print(
        "step {:.1f} ms (median of {}), {:.0f} tokens/s, {:.0f} GFLOP/s, {:.0f} % of the {:.0f} GFLOP/s of large "
        "matrix products\n",
        median * 1e3, steps, tokens / median, flops / median / 1e9, 100 * flops / median / peak, peak / 1e9);
    if (session.size() > 1) fmt::print("{:.1f} % of it waiting for other ranks\n", 100 * comm_share);
  }
  return 0;
}

}  // namespace

int run_bench(const Arguments& arguments) {
  std::string what, file;
  std::int64_t steps = 6, warmup = 2;
  bool json = false;
  std::vector<std::string> overrides;
  Options options("bench", "Benchmarks. `bench step CONFIG`: whole training steps on random tokens.");
  options.positional("what", what, "step");
  options.positional("config", file, "JSON config", Need::Optional);
  options.option("--steps", steps, "measured steps");
  options.option("--warmup", warmup, "steps before them");
  options.flag("--json", json, "print one JSON object: tokens_per_s, step_ms and more");
  options.config_overrides(overrides);
  if (!options.parse(arguments)) return 0;
  if (what != "step") input_error("command line: bench: found '{}', expected step", what);
  if (steps < 1 || warmup < 0)
    input_error("command line: --steps, --warmup: found {}, {}, expected at least 1, 0", steps, warmup);
  return run_with_ranks(
      [&](const MpiSession& session) { return bench_step(session, file, overrides, steps, warmup, json); });
}

}  // namespace upcycle
