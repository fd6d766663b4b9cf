#include <fmt/core.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "core/config/batch_ramp.h"
#include "core/config/check.h"
#include "core/config/parse.h"
#include "core/flight_record.h"
#include "core/log.h"
#include "data/files.h"
#include "launch/agree_on_start.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/epoch_log.h"
#include "launch/metrics.h"
#include "launch/options.h"
#include "launch/profile_window.h"
#include "launch/run_saves.h"
#include "launch/run_summary.h"
#include "launch/run_with_ranks.h"
#include "launch/skipped_steps.h"
#include "launch/stop_signals.h"
#include "launch/stragglers.h"
#include "launch/training_run.h"
#include "parallel/checkpoint/latest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/stall_monitor.h"
#include "parallel/plan/plan.h"
#include "parallel/train/diverged.h"
#include "parallel/train/dump.h"
#include "parallel/train/evaluate.h"
#include "parallel/train/param_groups.h"
#include "parallel/train/schedule.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/train/wrong_number.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Signals may reach only one rank, or ranks at different steps; this makes all stop at the same step. Collective.
bool all_stop(Communicator& world) { return world.max_of(stop_asked() ? 1 : 0) > 0; }

int stopped_before_training() {
  log_info("stopped by a signal before the first step, with nothing to save: the same command starts from there");
  return kStoppedBySignal;
}

// Whether this run dumps a step, to a folder that this makes. A resumed run leaves a dump as it is: the same command
// must go on after any interruption.
bool start_dump(const std::string& dir, bool resumed) {
  if (dir.empty()) return false;
  if (resumed && std::filesystem::exists(dir) && !std::filesystem::is_empty(dir)) {
    log_warn("debug.dump: {} has files from before this run was resumed: nothing is dumped", dir);
    return false;
  }
  make_dump_folder(dir);
  return true;
}

// Its exit code is that of bad input: the same command would diverge again, so a scheduler must not restart it.
constexpr int kDiverged = 2;
// That of an error: the disk may be mended before a scheduler starts the command again.
constexpr int kNotSaved = 1;

// The same command goes on from the newest checkpoint, perhaps to find the same: people should look at the machine.
constexpr int kWrongNumber = 5;

// Saves under way were checked before they began: they are published. Nothing else is saved, and no older step removed.
int stopped_by_wrong_number(TrainingRun& run, const WrongNumber& e) {
  if (run.writer != nullptr) {
    run.writer->keep_all();
    finish_saves(run);
  }
  if (log_rank() != 0) return kWrongNumber;
  const std::string latest = run.writer != nullptr ? read_latest(run.setup.config.checkpoint.dir) : "";
  const std::string saved = latest.empty()
                                ? "nothing is saved"
                                : fmt::format("nothing is saved after {}, from which the same command goes on", latest);
  print_input_error(fmt::format("after step {}: {}; look at that machine's memory, processor and links; {}",
                                run.trainer.step, e.what(), saved)
                        .c_str());
  return kWrongNumber;
}

// True when all steps are done, false when a signal ended the run early; the last state is saved either way.
bool train_loop(TrainingRun& run, Metrics& metrics, Stragglers& stragglers) {
  const SequenceSource source = sequences(run);
  const std::int64_t total = total_steps(run.setup.config.train, {run.trainer.step, run.trainer.tokens});
  const std::int64_t first = run.trainer.step, first_sample = run.trainer.consumed_samples;
  // The data position of the newest save: a skipped step moves it too.
  std::int64_t saved = run.resumed ? first_sample : -1;
  bool stop = false;
  ProfileWindow profile(run.backend, run.mesh, run.setup.config.train);
  const TrainConfig& lengths = run.setup.config.train;
  const std::int64_t passed = run.trainer.consumed_samples + lengths.skip_samples;
  EpochLog epochs(*run.sampler, run.setup.config.data.train, passed,
                  passed + samples_in(lengths, run.trainer.consumed_samples, total - first));
  while (run.trainer.step < total && !(stop = all_stop(*run.mesh.world))) {
    if (run.setup.live_moe && run.trainer.step >= run.setup.config.upcycle.at_step) {
      finish_saves(run);
      upcycle_in_place(run);
    }
    Trainer& t = run.trainer;
    const Config& c = run.setup.config;
    if (run.dumps && t.step == (c.debug.dump_step > 0 ? c.debug.dump_step - 1 : first)) {
      dump_step(t, source, c.debug.dump);
      run.dumps = false;
      log_info("step {}: its activations and gradients are in {}", t.step + 1, c.debug.dump);
    }
    profile.before_step(t.step + 1);
    stragglers.before_step();
    const auto begin = Clock::now();
    const StepResult result = train_step(t, source);
    if (result.skipped != Skipped::No) {
      epochs.passed_over(result.samples);
      after_skipped_step(run, metrics, result);
      publish_written(run);
      continue;
    }
    const double seconds = since(begin);
    metrics.step(t, result, seconds, total, stragglers.after_step(t.step, result));
    epochs.after_step(t.step, t.consumed_samples + c.train.skip_samples);
    profile.after_step(t.step);
    if (!run.valid.empty() && (t.step == total || (c.train.eval_every > 0 && t.step % c.train.eval_every == 0)))
      evaluate_all(run, metrics);
    publish_written(run);
    if (run.writer != nullptr && c.checkpoint.model_every > 0 && t.step % c.checkpoint.model_every == 0)
      start_model_save(run);
    if (run.writer != nullptr && c.checkpoint.every > 0 && t.step % c.checkpoint.every == 0) {
      start_save(run);
      saved = t.consumed_samples;
    }
  }
  profile.finish(run.trainer.step);
  if (run.dumps && log_rank() == 0)
    log_warn("debug.dump: this run did not come to the step to dump: nothing is in the folder");
  save_last(run, saved == run.trainer.consumed_samples || run.trainer.consumed_samples == first_sample);
  return !stop;
}

int train(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides) {
  Start start = agree_on_start(session, "train", [&] {
    Config c = parse_config(file, overrides);
    if (session.rank() == 0) check_trace_file(c);
    return c;
  });
  Config& config = start.config;
  session.stalls().set_report_folder(config.checkpoint.dir);
  InPhase phase(Phase::Loading);
  const Layout& layout = start.layout;
  set_stop_deadline(config.checkpoint.stop_deadline_s);
  const Backend backend = make_backend(session, config);
  const Mesh mesh = make_backend_mesh(backend, session, layout);
  TrainingRun run{mesh, backend};
  // Lock the run folder before reading it: a job that starts while another ends must see its last step.
  const std::string dir = config.checkpoint.dir;
  const Retention keep(config.checkpoint.keep, config.checkpoint.keep_every);
  if (all_stop(*mesh.world)) return stopped_before_training();
  if (mesh.world->max_of(!dir.empty() && holds_run(dir)) > 0)
    run.writer = std::make_unique<CheckpointWriter>(dir, *mesh.world, keep);
  const std::string name = file.empty() ? "the config" : file;
  run.setup = set_up_run(std::move(config), name, *mesh.world);
  std::optional<Yardstick> yardstick;
  std::vector<MemoryClass> plan;
  agree_or_throw(*mesh.world, [&] {
    open_data(run);
    run.travel = travelling(run.setup, session.rank() == 0);
    if (run.setup.checkpoint != nullptr && session.rank() == 0) warn_of_newer_steps(dir);
    if (!dir.empty() && session.rank() == 0) tell_of_newer_models(dir);
    const PlannedRun planned = planned_run(run.setup);
    (void)check_layout(planned, session.size());
    check_kernel_limits(planned.config.device, planned.config.model, name);
    plan = plan_trainer(run.setup.config, mesh, *backend.ops);
    if (run.setup.live_moe) {  // the model after the conversion must fit too
      Config live = run.setup.config;
      live.model = *run.setup.live_moe;
      const std::vector<MemoryClass> moe = plan_trainer(live, mesh, *backend.ops);
      check_fits_machine(backend, conversion_memory(plan, moe));
      check_fits_machine(backend, moe);
    }
    check_fits_machine(backend, plan);
  });
  agree_or_throw(*mesh.world, [&] {
    // Before anything is written, refuse what can not be computed here or does not fit in memory.
    yardstick = make_yardstick(backend, run.setup.config.storage(), layout.world);
    if (session.rank() == 0) run.dumps = start_dump(run.setup.config.debug.dump, run.setup.checkpoint != nullptr);
    run.trainer =
        make_trainer(run.setup.config, mesh, *backend.device, *backend.stream, *backend.ops, backend.host_ops.get());
  });
  run.dumps = mesh.world->max_of(run.dumps ? 1 : 0) > 0;
  if (all_stop(*mesh.world)) return stopped_before_training();
  const Config& c = run.setup.config;
  const bool writes = !c.checkpoint.dir.empty();
  if (!writes && session.rank() == 0) log_warn("checkpoint.dir is empty: nothing of this run will be kept");
  if (writes && run.writer == nullptr) run.writer = std::make_unique<CheckpointWriter>(dir, *mesh.world, keep);
  start_weights(run);
  make_snapshots(run);

  if (writes && session.rank() == 0) write_for_readers(c.checkpoint.dir + "/run.json", config_text(run.setup) + "\n");
  log_info("{}", run_summary(c, layout, {run.trainer.step, run.trainer.tokens}, plan, yardstick->flops()));
  for (const std::string& line : describe_param_groups(c)) log_info("{}", line);

  run.wall_before = run.trainer.wall_seconds;
  run.start = Clock::now();
  phase.next(Phase::Between);
  Metrics metrics(session.rank() == 0 ? c.checkpoint.dir : "", *yardstick, c, backend);
  Stragglers stragglers(mesh, session.host(), c.train);
  const std::int64_t first = run.trainer.consumed_samples;
  bool done = false;
  try {
    done = train_loop(run, metrics, stragglers);
  } catch (const WrongNumber& e) {
    return stopped_by_wrong_number(run, e);
  } catch (const Diverged& e) {  // thrown on every rank: rank 0 prints it, and all end normally
    if (session.rank() == 0) print_input_error(e.what());
    return kDiverged;
  } catch (const SaveFailed& e) {  // likewise
    if (session.rank() == 0) print_input_error(e.what());
    return kNotSaved;
  }
  if (!done) {
    if (run.trainer.consumed_samples == first) return stopped_before_training();
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
  options.example("upcycle train moe.json --init.upcycle=dense --checkpoint.dir=runs/moe",
                  "upcycles the checkpoint `dense` and trains it; the same command again resumes");
  options.example("launch/run_local.sh -n 2 train moe.json --parallel.ep=2 --checkpoint.dir=runs/moe",
                  "the same on two ranks of this machine");
  if (!options.parse(arguments)) return 0;
  catch_stop_signals();
  let_second_signal_end();
  return run_with_ranks([&](const MpiSession& session) { return train(session, file, overrides); });
}

}  // namespace upcycle
