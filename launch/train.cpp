#include <chrono>
#include <filesystem>
#include <optional>

#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/log.h"
#include "data/files.h"
#include "data/sampler.h"
#include "launch/agree_on_start.h"
#include "launch/backend.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/metrics.h"
#include "launch/model_files.h"
#include "launch/options.h"
#include "launch/profile_window.h"
#include "launch/run_setup.h"
#include "launch/run_with_ranks.h"
#include "launch/stop_signals.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/comm/agree.h"
#include "parallel/plan/plan.h"
#include "parallel/train/dump.h"
#include "parallel/train/evaluate.h"
#include "parallel/train/schedule.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Everything of one training run on one rank.
struct Run {
  const Mesh& mesh;
  const Backend& backend;
  RunSetup setup{};
  Trainer trainer{};
  std::unique_ptr<Sampler> sampler{};
  std::map<std::string, TokenSet> valid{};
  std::unique_ptr<Snapshot> snapshot{};  // before its writer, which may still read it when an error ends the run
  std::unique_ptr<CheckpointWriter> writer{};
  std::vector<std::string> travel{};  // files that go into each checkpoint
  double wall_before = 0;             // seconds of training before this process
  Clock::time_point start = Clock::now();
};

SequenceSource sequences(Run& run) {
  return [&run](std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    run.sampler->fill(index, tokens.data(), targets.data());
  };
}

// Real tokens to measure an upcycling on: the first sequence of the run, at most 256 of it.
std::vector<std::int32_t> probe_tokens(Run& run) {
  const std::int64_t S = run.setup.config.train.seq_length;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(S)), targets(tokens.size());
  run.sampler->fill(0, tokens.data(), targets.data());
  tokens.resize(static_cast<std::size_t>(probe_length(S, run.mesh.layout.tp)));
  return tokens;
}

void open_data(Run& run) {
  const Config& c = run.setup.config;
  check_data(c);
  if (!c.data.tokenizer.empty()) check_tokenizer(c.data.tokenizer, c.model);
  run.sampler = std::make_unique<Sampler>(c.data.train, c.model.vocab_size, c.train.seq_length, c.data.seed);
  for (const auto& [name, prefix] : c.data.valid) {
    run.valid.emplace(name, TokenSet::open(prefix, c.model.vocab_size));
    (void)EvalWindows(run.valid.at(name), c.train.seq_length);  // one too short to evaluate
  }
  // Ids are checked whenever they are read; another tokenizer's set is refused before anything is written.
  if (run.mesh.world->rank() != 0) return;
  for (const WeightedPath& part : c.data.train) TokenSet::open(part.path, c.model.vocab_size).check_ids();
  for (const auto& [name, set] : run.valid) set.check_ids();
}

// A run that was set back by hand, as after a loss spike, meets what it has saved before.
void warn_of_newer_steps(const std::string& dir) {
  const std::vector<std::string> steps = newer_steps(dir);
  if (steps.empty()) return;
  const std::string newer =
      steps.size() == 1 ? steps[0] + " is" : fmt::format("{} to {} are", steps.front(), steps.back());
  log_warn(
      "{}/latest names {}, and {} newer: training goes on from there and replaces each newer step as it comes to it; "
      "to "
      "keep one, move it out of the folder",
      dir, read_latest(dir), newer);
}

void start_weights(Run& run) {
  Trainer& t = run.trainer;
  const RunSetup& setup = run.setup;
  if (setup.checkpoint != nullptr) {
    restore_trainer(t, *setup.checkpoint);
    log_info("resumed {} at step {}", setup.checkpoint->directory(), t.step);
  } else if (!setup.config.init.upcycle.empty()) {
    const UpcycleReport report = upcycle_from_checkpoint(t, *setup.source, probe_tokens(run));
    log_info("upcycled {} to {} experts: {}", setup.config.init.upcycle, setup.config.model.num_local_experts,
             report.text());
  } else if (setup.source != nullptr) {
    load_trainer_weights(t, *setup.source);
    log_info("loaded {}", setup.config.init.load);
  } else {
    initialize_trainer(t, static_cast<std::uint64_t>(setup.config.seed));
  }
}

void make_snapshot_arena(Run& run) {
  if (run.writer != nullptr) run.snapshot = std::make_unique<Snapshot>(make_snapshot(run.trainer));
}

// upcycle.at_step: the dense trainer of this run becomes an MoE trainer.
void convert(Run& run) {
  Config config = run.setup.config;
  config.model = *run.setup.live_moe;
  run.snapshot.reset();
  LiveUpcycle live = upcycle_live(std::move(run.trainer), config, probe_tokens(run));
  run.trainer = std::move(live.trainer);
  run.setup.config = config;
  run.setup.live_moe.reset();
  make_snapshot_arena(run);
  log_info("step {}: upcycled in place to {} experts: {}", run.trainer.step, config.model.num_local_experts,
           live.report.text());
}

void evaluate_all(Run& run, Metrics& metrics) {
  const Config& c = run.setup.config;
  for (const auto& [name, set] : run.valid) {
    const EvalWindows windows(set, c.train.seq_length);
    const EvalResult r =
        evaluate(*run.trainer.model, run.trainer.batch, windows, c.train.eval_steps * c.train.global_batch_size);
    metrics.eval(run.trainer, name, r.loss, r.tokens);
  }
}

// What says how the run's tokens are text travels with its checkpoints: data.tokenizer where it is given, else the
// files beside the weights that the run started from.
std::vector<std::string> travelling(const RunSetup& setup) {
  const Config& c = setup.config;
  if (!c.data.tokenizer.empty() && c.data.tokenizer != "bytes") return {c.data.tokenizer};
  if (setup.checkpoint != nullptr) return travelling_files(setup.checkpoint->directory());
  const std::string from = !c.init.load.empty() ? c.init.load : c.init.upcycle;
  return from.empty() ? std::vector<std::string>{} : travelling_files(model_folder(from));
}

void finish_save(Run& run) {
  if (run.writer == nullptr || !run.writer->busy()) return;
  run.writer->finish();
}

// A step whose files lie complete on every rank is published at once: until `latest` names it, a killed run would lose
// it. All ranks are busy with the same save, so all come here.
void publish_written(Run& run) {
  if (run.writer == nullptr || !run.writer->busy()) return;
  if (run.mesh.world->max_of(run.writer->written() ? 0 : 1) == 0) finish_save(run);
}

void start_save(Run& run) {
  finish_save(run);  // the snapshot is one: the save before must be published first
  Trainer& t = run.trainer;
  t.wall_seconds = run.wall_before + since(run.start);
  CheckpointInfo info = checkpoint_info(t);
  info.init = run.setup.init;
  info.config = config_text(run.setup);
  for (const std::string& file : run.travel) {
    const std::string name = std::filesystem::path(file).filename().string();
    if (name.ends_with(".model") || (info.tokenizer.empty() && name == "tokenizer.json")) info.tokenizer = name;
  }
  run.writer->start(info, take_snapshot(t, *run.snapshot), run.travel);
  if (!run.setup.config.checkpoint.background) finish_save(run);
}

// Signals may reach one rank alone, or some a step later: all stop at the same place. A collective call.
bool all_stop(Communicator& world) { return world.max_of(stop_asked() ? 1 : 0) > 0; }

int stopped_before_training() {
  log_info("stopped by a signal before the first step, with nothing to save: the same command starts from there");
  return kStoppedBySignal;
}

// Its exit code is that of bad input: the same command would diverge again, and a scheduler is not to start it again.
constexpr int kDiverged = 2;

// A step whose loss is not finite has changed nothing: the state before it is saved, for a run with other settings to
// go on from. Older steps stay, whatever checkpoint.keep says: it may be the weights that are ruined. Says what was
// done.
std::string save_before_divergence(Run& run, bool is_saved) {
  if (run.writer == nullptr) return "checkpoint.dir is empty: nothing is kept; lower train.lr or look at the data";
  const std::string& dir = run.setup.config.checkpoint.dir;
  run.writer->keep_all();
  try {
    if (!is_saved) start_save(run);
    finish_save(run);
  } catch (const Error& e) {
    return e.what();
  }
  return fmt::format(
      "the state before it is saved in {}/{}: lower train.lr or look at the data and go on; where the weights are "
      "ruined "
      "already, write the name of an older step into {}/{}",
      dir, step_folder_name(run.trainer.step), dir, latest_name);
}

// Of a blend each set has epochs of its own: a small one with a large weight comes round first.
void say_new_epochs(Run& run, std::vector<std::int64_t>& begun) {
  if (run.mesh.world->rank() != 0) return;
  const std::vector<std::int64_t> now = run.sampler->epochs_begun(run.trainer.consumed_samples);
  for (std::size_t s = 0; s < now.size(); ++s)
    if (now[s] > std::max<std::int64_t>(begun[s], 1))
      log_info("step {}: epoch {} of {} began ({} sequences)", run.trainer.step, now[s],
               run.setup.config.data.train[s].path, run.sampler->sequences(static_cast<std::int64_t>(s)));
  begun = now;
}

// True when all steps are done, false when a signal ended the run early; the last state is saved either way.
bool train_loop(Run& run, Metrics& metrics) {
  const SequenceSource source = sequences(run);
  const std::int64_t total = total_steps(run.setup.config.train, {run.trainer.step, run.trainer.tokens});
  std::int64_t saved = run.setup.checkpoint != nullptr ? run.trainer.step : -1;
  const std::int64_t first = run.trainer.step;
  bool stop = false;
  ProfileWindow profile(run.backend, run.setup.config.train);
  std::vector<std::int64_t> epochs = run.sampler->epochs_begun(run.trainer.consumed_samples);
  while (run.trainer.step < total && !(stop = all_stop(*run.mesh.world))) {
    if (run.setup.live_moe && run.trainer.step >= run.setup.config.upcycle.at_step) {
      finish_save(run);
      convert(run);
    }
    Trainer& t = run.trainer;
    const Config& c = run.setup.config;
    if (!c.debug.dump.empty() && t.step == (c.debug.dump_step > 0 ? c.debug.dump_step - 1 : first)) {
      dump_step(t, source, c.debug.dump);
      log_info("step {}: its activations and gradients are in {}", t.step + 1, c.debug.dump);
    }
    profile.before_step(t.step + 1);
    const auto begin = Clock::now();
    const StepResult result = [&] {
      try {
        return train_step(t, source);
      } catch (const Diverged& e) {
        throw Diverged(fmt::format("{}; {}", e.what(), save_before_divergence(run, saved == t.step)));
      }
    }();
    metrics.step(t, result, since(begin), total);
    say_new_epochs(run, epochs);
    profile.after_step(t.step);
    if (c.train.check_replicas_every > 0 && t.step % c.train.check_replicas_every == 0)
      check_replicas(t.optimizer, t.memory);
    if (!run.valid.empty() && (t.step == total || (c.train.eval_every > 0 && t.step % c.train.eval_every == 0)))
      evaluate_all(run, metrics);
    publish_written(run);
    if (run.writer != nullptr && c.checkpoint.every > 0 && t.step % c.checkpoint.every == 0) {
      start_save(run);
      saved = t.step;
    }
  }
  profile.warn_unopened(run.trainer.step);
  if (run.writer != nullptr && saved != run.trainer.step && run.trainer.step > first) start_save(run);
  finish_save(run);
  return !stop;
}

// 1234567 as "1.23 M".
std::string short_number(double x) {
  const char* const units[] = {"", " k", " M", " G", " T", " P"};
  std::size_t i = 0;
  for (; x >= 1000 && i + 1 < std::size(units); ++i) x /= 1000;
  return i == 0 ? fmt::format("{:.0f}", x) : fmt::format("{:.3g}{}", x, units[i]);
}

// What is trained, in one line; run.json has every key.
std::string summary(const Config& c, const Layout& l, const Trained& done, const std::vector<MemoryClass>& plan) {
  const ModelConfig& m = c.model;
  const ParameterCount count = count_parameters(m);
  const std::int64_t tokens = c.train.global_batch_size * c.train.seq_length, steps = total_steps(c.train, done);
  std::string text = fmt::format("model: H {}, F {}, L {}, N {}, K {}, V {}", m.hidden_size, m.intermediate_size,
                                 m.num_hidden_layers, m.num_attention_heads, m.kv_heads(), m.vocab_size);
  if (m.is_moe())
    text += fmt::format(", {} experts of {}, {} a token", m.num_local_experts, m.expert_size(), m.num_experts_per_tok);
  text += fmt::format("; {} parameters", short_number(static_cast<double>(count.total)));
  if (m.is_moe()) text += fmt::format(", {} active a token", short_number(static_cast<double>(count.active)));
  text += fmt::format(", {} on {}; world {} = tp {} x dp {}", c.dtype, c.device, l.world, l.tp, l.dp);
  if (m.is_moe()) text += fmt::format(" (experts: etp {} x ep {} x edp {})", l.etp, l.ep, l.edp);
  std::size_t bytes = 0;
  for (const MemoryClass& one : plan) bytes += one.bytes;
  text += fmt::format("; {} steps of {} tokens = {}; {:.0f} MiB a rank", steps, tokens,
                      short_number(static_cast<double>(done.tokens + (steps - done.step) * tokens)),
                      static_cast<double>(bytes) / (1 << 20));
  if (!c.checkpoint.dir.empty()) text += "; config: " + c.checkpoint.dir + "/run.json";
  return text;
}

int train(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides) {
  Start start = agree_on_start(session, "train", [&] { return parse_config(file, overrides); });
  Config& config = start.config;
  const Layout& layout = start.layout;
  const Backend backend = make_backend(session, config);
  const Mesh mesh = make_backend_mesh(backend, session, layout);
  Run run{mesh, backend};
  // A run folder is locked before it is read: a job that starts as another ends must see its last step.
  const std::string dir = config.checkpoint.dir;
  const std::int64_t keep = config.checkpoint.keep;
  if (all_stop(*mesh.world)) return stopped_before_training();
  if (mesh.world->max_of(!dir.empty() && is_checkpoint(dir)) > 0)
    run.writer = std::make_unique<CheckpointWriter>(dir, *mesh.world, keep);
  const std::string name = file.empty() ? "the config" : file;
  run.setup = set_up_run(std::move(config), name, *mesh.world);
  std::optional<Yardstick> yardstick;
  std::vector<MemoryClass> plan;
  agree_or_throw(*mesh.world, [&] {
    open_data(run);
    run.travel = travelling(run.setup);
    if (run.setup.checkpoint != nullptr && session.rank() == 0) warn_of_newer_steps(dir);
    const PlannedRun planned = planned_run(run.setup);
    (void)check_layout(planned, session.size());
    check_kernel_limits(planned.config.device, planned.config.model, name);
    plan = plan_trainer(run.setup.config, mesh, *backend.ops);
    if (run.setup.live_moe) {  // what comes after the conversion too must fit now
      Config live = run.setup.config;
      live.model = *run.setup.live_moe;
      const std::vector<MemoryClass> moe = plan_trainer(live, mesh, *backend.ops);
      check_fits_machine(backend, conversion_memory(plan, moe));
      check_fits_machine(backend, moe);
    }
    check_fits_machine(backend, plan);
  });
  agree_or_throw(*mesh.world, [&] {
    // Before anything is written: what can not be computed or held here is said now.
    yardstick = make_yardstick(backend, run.setup.config.storage(), layout.world);
    if (session.rank() == 0 && !run.setup.config.debug.dump.empty()) make_dump_folder(run.setup.config.debug.dump);
    run.trainer = make_trainer(run.setup.config, mesh, *backend.device, *backend.stream, *backend.ops);
  });
  if (all_stop(*mesh.world)) return stopped_before_training();
  const Config& c = run.setup.config;
  const bool writes = !c.checkpoint.dir.empty();
  if (!writes && session.rank() == 0) log_warn("checkpoint.dir is empty: nothing of this run will be kept");
  if (writes && run.writer == nullptr) run.writer = std::make_unique<CheckpointWriter>(dir, *mesh.world, keep);
  start_weights(run);
  make_snapshot_arena(run);

  if (writes && session.rank() == 0) write_text_atomic(c.checkpoint.dir + "/run.json", config_text(run.setup) + "\n");
  log_info("{}", summary(c, layout, {run.trainer.step, run.trainer.tokens}, plan));

  run.wall_before = run.trainer.wall_seconds;
  run.start = Clock::now();
  Metrics metrics(session.rank() == 0 ? c.checkpoint.dir : "", *yardstick, c);
  const std::int64_t first = run.trainer.step;
  bool done = false;
  try {
    done = train_loop(run, metrics);
  } catch (const Diverged& e) {  // every rank has it: one says it, and all end by themselves
    if (session.rank() == 0) print_input_error(e.what());
    return kDiverged;
  }
  if (!done) {
    if (run.trainer.step == first) return stopped_before_training();
    log_info("stopped by a signal at step {}{}", run.trainer.step,
             writes ? ", saved: the same command goes on from there" : "");
    return kStoppedBySignal;
  }
  if (writes) log_info("done: {} at step {}", c.checkpoint.dir, run.trainer.step);
  return 0;
}

}  // namespace

int run_train(const Arguments& arguments) {
  std::string file;
  std::vector<std::string> overrides;
  Options options(
      "train",
      "Trains: from random weights, from a model (init.load), or as an MoE made of a dense one (init.upcycle).");
  options.positional("config", file, "JSON config; see `upcycle help config`", Need::Optional);
  options.config_overrides(overrides);
  if (!options.parse(arguments)) return 0;
  catch_stop_signals();
  return run_with_ranks([&](const MpiSession& session) { return train(session, file, overrides); });
}

}  // namespace upcycle
