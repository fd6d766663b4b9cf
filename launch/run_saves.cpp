#include "launch/run_saves.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/flight_record.h"
#include "core/log.h"
#include "core/plain_text.h"
#include "launch/model_files.h"
#include "parallel/checkpoint/data_position.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"
#include "parallel/train/wrong_number.h"

namespace upcycle {

std::vector<TravellingFile> travelling(const RunSetup& setup, bool with_bytes) {
  const Config& c = setup.config;
  const std::string init = !c.init.load.empty() ? c.init.load : c.init.upcycle;
  const std::string from = setup.checkpoint != nullptr ? setup.checkpoint->directory()
                           : init.empty()              ? ""
                                                       : model_folder(init);
  std::vector<std::string> files = from.empty() ? std::vector<std::string>{} : travelling_files(from);
  if (!c.data.tokenizer.empty() && c.data.tokenizer != "bytes") files = with_tokenizer(files, c.data.tokenizer);
  return read_travelling(files, with_bytes);
}

void warn_of_newer_steps(const std::string& dir) {
  const std::vector<std::string> steps = newer_steps(dir);
  if (steps.empty()) return;
  const std::string newer =
      steps.size() == 1 ? steps[0] + " is" : fmt::format("{} to {} are", steps.front(), steps.back());
  log_warn(
      "{}/latest names {}, and {} newer: training goes on from there and replaces each newer step as it comes to it; "
      "to keep one, move it out of the folder",
      dir, read_latest(dir), newer);
}

void tell_of_newer_models(const std::string& dir) {
  if (!std::filesystem::is_directory(dir)) return;
  const std::vector<std::string> models = newer_models(dir);
  if (models.empty()) return;
  const std::string latest = read_latest(dir);
  log_info(
      "{}/{}: weights alone, from which training can not resume: it goes on from {} and writes them anew as it comes "
      "to them",
      dir, models.back(),
      latest.empty() ? "the start, because no step was saved whole,"
                     : latest + ", the newest step that was saved whole,");
}

namespace {

struct Outcome {
  std::string failure;               // why it was not saved; "": it was
  std::int64_t failed_in_a_row = 0;  // of its kind, this one included
};

// Does what is left of the oldest save in progress, or its next stage alone, and counts how it ended; nothing: it has
// not ended.
std::optional<Outcome> go_on_with_oldest(TrainingRun& run, bool to_its_end) {
  const InPhase phase(Phase::Saving);
  const bool weights_alone = run.writer->oldest().weights_alone.has_value();
  const std::int64_t step = run.writer->oldest().step;
  std::int64_t& failed = weights_alone ? run.saves.failed_weights : run.saves.failed_states;
  try {
    if (to_its_end)
      run.writer->finish();
    else if (!run.writer->advance())
      return std::nullopt;
    failed = 0;
    return Outcome{};
  } catch (const SaveFailed& e) {
    ++failed;
    if (!weights_alone) run.saves.failed_step = step;
    return Outcome{e.what(), failed};
  }
}

Outcome outcome_of_oldest(TrainingRun& run) { return *go_on_with_oldest(run, true); }

void warn_of_failure(const TrainingRun& run, const Outcome& outcome) {
  if (outcome.failure.empty() || log_rank() != 0) return;
  log_warn("{}; training goes on, to the next save (failed in a row: {}, at {} it ends): make room in {}, or mend it",
           outcome.failure, outcome.failed_in_a_row, kMostFailedSaves, run.setup.config.checkpoint.dir);
}

// The oldest save has ended so. SaveFailed where too many failed in a row.
void take_outcome(TrainingRun& run, Outcome outcome) {
  if (outcome.failed_in_a_row < kMostFailedSaves) return warn_of_failure(run, outcome);
  // Those that wait behind it lie in memory alone: they are published where the disk takes them again.
  while (run.writer->busy()) {
    Outcome next = outcome_of_oldest(run);
    if (next.failed_in_a_row >= kMostFailedSaves) std::swap(next, outcome);
    if (!next.failure.empty() && log_rank() == 0) log_warn("{}", next.failure);
  }
  if (std::max(run.saves.failed_states, run.saves.failed_weights) < kMostFailedSaves)
    return warn_of_failure(run, outcome);
  throw SaveFailed(
      fmt::format("{}; {} saves in a row failed, and training ends: make room in {}, or mend it, and start the same "
                  "command again",
                  outcome.failure, outcome.failed_in_a_row, run.setup.config.checkpoint.dir));
}

// Waits for the oldest save in progress and publishes it.
void finish_oldest(TrainingRun& run) { take_outcome(run, outcome_of_oldest(run)); }

}  // namespace

void finish_saves(TrainingRun& run) {
  while (run.writer != nullptr && run.writer->busy()) finish_oldest(run);
}

void publish_written(TrainingRun& run) {
  if (run.writer == nullptr || !run.writer->busy()) return;
  const InPhase phase(Phase::Saving);
  // All ranks have the same saves in progress, so all get here.
  while (run.writer->busy() && run.mesh.world->max_of(run.writer->ready() ? 0 : 1) == 0)
    if (std::optional<Outcome> outcome = go_on_with_oldest(run, false)) take_outcome(run, *std::move(outcome));
}

namespace {

void save(TrainingRun& run, std::optional<DType> weights_alone) {
  const InPhase phase(Phase::Saving);
  // Each save in progress holds a snapshot: with the oldest published, that of next_snapshot is free.
  while (run.writer->pending() >= run.setup.config.checkpoint.max_pending) finish_oldest(run);
  Trainer& t = run.trainer;
  if (t.config.train.check_replicas_every > 0) check_replicas(t.optimizer, t.memory);  // each rank writes its own copy
  t.wall_seconds =
      run.wall_before + std::chrono::duration<double>(std::chrono::steady_clock::now() - run.start).count();
  CheckpointInfo info = checkpoint_info(t);
  info.weights_alone = weights_alone;
  if (weights_alone) info.optimizer_steps.clear();
  info.init = run.setup.init;
  info.config = config_text(run.setup);
  for (const auto& [name, bytes] : run.travel)
    if (name.ends_with(".model") || (info.tokenizer.empty() && name == "tokenizer.json")) info.tokenizer = name;
  const auto begin = std::chrono::steady_clock::now();
  Snapshot& snapshot = run.snapshots[run.next_snapshot];
  run.next_snapshot = (run.next_snapshot + 1) % run.snapshots.size();
  run.writer->start(info, take_snapshot(t, snapshot, weights_alone), run.travel);
  if (!snapshot.buckets.empty())
    log_info("step {}: training waited {:.1f} s while the state was written (checkpoint.snapshot = bucket)", t.step,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

// A published step is never changed: where the data go on, steps having been skipped since, is written beside it.
// Why it could not be; "": it was.
std::string move_data_on(const TrainingRun& run) {
  const Trainer& t = run.trainer;
  std::string failure;
  try {
    if (run.mesh.rank == 0)
      write_data_position(run.setup.config.checkpoint.dir, step_folder_name(t.step),
                          {t.consumed_samples, t.skips.total, t.skips.in_a_row});
  } catch (const std::exception& e) {
    failure = plain_text(e.what());
  }
  return run.mesh.world->broadcast_text(failure, 0);
}

bool is_published(const TrainingRun& run) {
  const bool here =
      run.mesh.rank == 0 && read_latest(run.setup.config.checkpoint.dir) == step_folder_name(run.trainer.step);
  return run.mesh.world->max_of(here ? 1 : 0) > 0;
}

// Why the state is not saved, though it was tried; "": it is.
std::string save_and_wait(TrainingRun& run, bool is_saved) {
  finish_saves(run);
  if (run.saves.failed_step != run.trainer.step && (is_saved || is_published(run))) {
    run.writer->remove_old();
    return is_saved ? "" : move_data_on(run);
  }
  save(run, {});
  return outcome_of_oldest(run).failure;
}

}  // namespace

void start_save(TrainingRun& run) {
  save(run, {});
  if (!run.setup.config.checkpoint.background) finish_saves(run);
}

void start_model_save(TrainingRun& run) {
  save(run, run.setup.config.checkpoint.model_dtype == "bf16" ? DType::BF16 : DType::F32);
  if (!run.setup.config.checkpoint.background) finish_saves(run);
}

void save_last(TrainingRun& run, bool is_saved) {
  if (run.writer == nullptr) return;
  if (const std::string failure = save_and_wait(run, is_saved); !failure.empty())
    throw SaveFailed(fmt::format(
        "{}; it is the last state of this run: make room in {}, or mend it, and start the same command again, which "
        "goes on from the step before",
        failure, run.setup.config.checkpoint.dir));
}

std::string save_before_divergence(TrainingRun& run) {
  if (run.writer == nullptr) return "checkpoint.dir is empty: nothing is kept; lower train.lr or look at the data";
  const std::string& dir = run.setup.config.checkpoint.dir;
  run.writer->keep_all();
  try {
    if (std::string failure = save_and_wait(run, false); !failure.empty()) return failure;
  } catch (const SaveFailed& e) {
    return e.what();
  }
  return fmt::format(
      "the state before it is saved in {}/{}: lower train.lr or look at the data and go on; where the weights are "
      "ruined already, write the name of an older step into {}/{}",
      dir, step_folder_name(run.trainer.step), dir, latest_name);
}

}  // namespace upcycle
