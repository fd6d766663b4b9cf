#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/check.h"
#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/error.h"
#include "core/log.h"
#include "core/trace.h"
#include "launch/agree_on_start.h"
#include "launch/bench/calibrate.h"
#include "launch/bench/checkpoint.h"
#include "launch/bench/collectives.h"
#include "launch/bench/measured_config.h"
#include "launch/bench/ops.h"
#include "launch/bench/predict.h"
#include "launch/bench/serve.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "launch/profile_window.h"
#include "launch/run_with_ranks.h"
#include "launch/yardstick.h"
#include "parallel/comm/agree.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer.h"
#include "parallel/train/trainer_state.h"

namespace upcycle {
namespace {

constexpr double kGiB = 1 << 30;

// A profile window beyond the last step would record nothing, or not be closed.
void check_window(const Config& c, std::int64_t steps, std::int64_t warmup) {
  const char* key = "train.profile_step_end";
  if (c.train.profile_step_end > steps + warmup)
    field_error(c.where(key), key, fmt::format("{}", c.train.profile_step_end),
                fmt::format("at most the {} steps of --steps={} and --warmup={}", steps + warmup, steps, warmup),
                "lower it, or measure more steps");
}

// Times whole training steps on random tokens and random weights: forward, backward, clip, update.
int bench_step(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
               std::int64_t steps, std::int64_t warmup, bool json) {
  const Start start = agree_on_start(session, "bench step", [&] {
    Config c = config_to_measure(file, overrides, steps + warmup);
    check_window(c, steps, warmup);
    if (session.rank() == 0) check_trace_file(c);
    return c;
  });
  const Config& c = start.config;
  const Layout& layout = start.layout;
  const Backend backend = make_backend(session, c);
  const Mesh mesh = make_backend_mesh(backend, session, layout);
  Trainer t;
  std::optional<Yardstick> yardstick;
  double planned = 0;  // bytes
  agree_or_throw(*mesh.world, [&] {
    const std::vector<MemoryClass> plan = plan_trainer(c, mesh, *backend.ops);
    check_fits_machine(backend, plan);
    for (const MemoryClass& m : plan) planned += backend.gpu < 0 || !m.beside_gpu ? static_cast<double>(m.bytes) : 0;
  });
  agree_or_throw(*mesh.world, [&] {
    yardstick = make_yardstick(backend, c.storage(), layout.world);
    t = make_trainer(c, mesh, *backend.device, *backend.stream, *backend.ops, backend.host_ops.get());
  });
  initialize_trainer(t, static_cast<std::uint64_t>(c.seed));
  const SequenceSource source = random_sequences(c.model.vocab_size);
  std::vector<double> seconds;
  StepResult last;
  ProfileWindow profile(backend, mesh, c.train);
  for (std::int64_t i = 0; i < steps + warmup; ++i) {
    if (i == warmup) reset_trace_counters();
    profile.before_step(i + 1);
    const auto begin = std::chrono::steady_clock::now();
    last = train_step(t, source);
    UPCYCLE_CHECK(last.skipped == Skipped::No,
                  "step {}: loss {} and gradient norm {}: a step that is skipped is no measure", i + 1, last.loss,
                  last.grad_norm);
    backend.stream->synchronize();  // a GPU may still be busy with the update
    profile.after_step(i + 1);
    if (i >= warmup) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  // Of the rank that waits longest for the others in its collectives.
  const double comm_share =
      mesh.world->max_of(trace_counters().wait_seconds() / std::accumulate(seconds.begin(), seconds.end(), 0.0));
  const double in_use = mesh.world->max_of(static_cast<double>(memory_used(backend))),
               in_plan = mesh.world->max_of(planned);
  const bool waits_are_known = backend.gpu < 0;  // on CUDA streams wait, not the host
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2], tokens = static_cast<double>(last.tokens);
  const double flops = tokens * training_flops_per_token(c.model, c.train.seq_length);
  const ParameterCount count = count_parameters(c.model);
  if (session.rank() != 0) return 0;
  const double mfu = yardstick->mfu(flops / median), peak = yardstick->flops();
  if (json) {
    fmt::print("{}\n",
               nlohmann::ordered_json{{"tokens_per_s", tokens / median},
                                      {"step_ms", median * 1e3},
                                      {"best_tokens_per_s", tokens / seconds.front()},
                                      {"best_step_ms", seconds.front() * 1e3},
                                      {"gflops", flops / median / 1e9},
                                      {"peak_gflops", peak / 1e9},
                                      {"mfu", mfu},
                                      {"comm_share", waits_are_known ? nlohmann::ordered_json(comm_share) : nullptr},
                                      {"memory_in_use", in_use},
                                      {"memory_planned", in_plan},
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
        median * 1e3, steps, tokens / median, flops / median / 1e9, 100 * mfu, peak / 1e9);
    fmt::print("memory of a rank: {:.2f} GiB {}, {:.2f} GiB in the plan\n", in_use / kGiB,
               backend.gpu < 0 ? "resident" : "in use on its GPU", in_plan / kGiB);
    if (session.size() > 1 && waits_are_known) fmt::print("{:.1f} % of it waiting for other ranks\n", 100 * comm_share);
  }
  return 0;
}

// Times each op by itself at the config's shapes.
int bench_ops_of(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
                 double seconds, bool json) {
  const Start start = agree_on_start(session, "bench ops", [&] {
    if (session.size() > 1)
      input_error("command line: bench ops: found {} ranks, expected one: start it without mpirun", session.size());
    return config_to_measure(file, overrides, 1);
  });
  bench_ops(make_backend(session, start.config), start.config, seconds, json);
  return 0;
}

// Times the collectives of the config's layout by themselves.
int bench_collectives_of(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
                         CollectiveBench bench) {
  const Start start = agree_on_start(session, "bench collectives", [&] {
    if (session.size() == 1)
      input_error(
          "command line: bench collectives: found one rank, expected several: start it with "
          "launch/run_local.sh -n RANKS");
    return config_to_measure(file, overrides, 1);
  });
  bench.dtype = start.config.storage();
  const Backend backend = make_backend(session, start.config);
  bench_collectives(backend, make_backend_mesh(backend, session, start.layout), bench);
  return 0;
}

}  // namespace

int run_bench(const Arguments& arguments) {
  if (!arguments.empty() && arguments[0] == "predict") return bench_predict({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "serve") return bench_serve({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "calibrate")
    return bench_calibrate({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "checkpoint")
    return bench_checkpoint({arguments.begin() + 1, arguments.end()});
  std::string what, file;
  std::int64_t steps = 6, warmup = 2;
  CollectiveBench collectives;
  double seconds = 0.2, link = 0;
  std::string largest;
  bool json = false;
  std::vector<std::string> overrides;
  Options options(
      "bench",
      "Benchmarks. `bench step CONFIG`: whole training steps on random tokens. `bench ops CONFIG`: each op "
      "by itself against its roof. `bench collectives CONFIG`: those of a step by themselves, over the layout's "
      "groups. `bench serve MODEL`: serving under load; `bench predict CONFIG`: serving predicted "
      "for the machine of a file; `bench calibrate CONFIG`: measures this machine and writes such a file; "
      "`bench checkpoint CONFIG`: what saving and resuming take (each of these four has its own --help).");
  options.positional("what", what,
                     "step, ops or collectives; serve, predict, calibrate and checkpoint have a help of their own");
  options.positional("config", file, "JSON config, as for train: the model, dtype, layout and batch that are measured",
                     Need::Optional);
  options.option("--steps", steps, "step: measured steps");
  options.option("--warmup", warmup, "step: steps before them");
  options.option("--seconds", seconds, "ops, collectives: approximate time per row");
  options.option("--bytes", largest, "collectives: the largest message, as 256MiB");
  options.option("--link", link, "collectives: GB/s out of a rank, to compare with");
  options.flag("--json", json, "print one JSON object: tokens_per_s, step_ms and more; of ops a list");
  options.config_overrides(overrides);
  options.example("upcycle bench step launch/configs/bench_moe.json --json",
                  "tokens per second and MFU of whole training steps");
  options.example("upcycle bench ops launch/configs/bench_moe.json", "each op at this config's shapes beside its roof");
  options.example("launch/run_local.sh -n 2 bench collectives launch/configs/bench_moe.json --parallel.ep=2",
                  "what the links of two ranks give");
  if (!options.parse(arguments)) return 0;
  if (what != "step" && what != "ops" && what != "collectives")
    input_error(
        "command line: bench: found '{}', expected step, ops, collectives, serve, predict, calibrate or checkpoint",
        what);
  if (steps < 1 || warmup < 0)
    input_error("command line: --steps, --warmup: found {}, {}, expected at least 1, 0", steps, warmup);
  if (!(seconds > 0)) input_error("command line: --seconds: found {}, expected more than 0", seconds);
  if (link < 0) input_error("command line: --link: found {}, expected GB/s", link);
  if (!largest.empty()) collectives.largest = parse_bytes("--bytes", largest);
  collectives.seconds = seconds;
  collectives.link = link * 1e9;
  collectives.json = json;
  return run_with_ranks([&](const MpiSession& session) {
    if (what == "collectives") return bench_collectives_of(session, file, overrides, collectives);
    return what == "step" ? bench_step(session, file, overrides, steps, warmup, json)
                          : bench_ops_of(session, file, overrides, seconds, json);
  });
}

}  // namespace upcycle
