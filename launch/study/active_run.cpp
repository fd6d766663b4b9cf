#include "launch/study/active_run.h"

#include <csignal>
#include <filesystem>

#include "core/error.h"
#include "launch/stop_signals.h"
#include "launch/study/run_folder.h"
#include "parallel/checkpoint/publish.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// For a trainer whose driver was killed to end too.
constexpr double kWaitForFolder = 120;  // seconds

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

}  // namespace

ActiveRun::ActiveRun(const Study& study, const Launcher& launcher, StudyRun run, FolderLock claim, std::int64_t slot)
    : study_(study),
      launcher_(launcher),
      run_(std::move(run)),
      claim_(std::move(claim)),
      slot_(slot),
      folder_(run_folder(study, run_.name)) {}

double ActiveRun::seconds() const { return since(begin_); }
double ActiveRun::seconds_measuring() const { return trained_ ? since(trained_at_) : 0; }

ActiveRun::State ActiveRun::poll() {
  try {
    return go_on();
  } catch (const std::exception& e) {  // such as a full disk: it is this run's failure, not the study's
    child_.reset();
    error_ = e.what();
    return State::Failed;
  }
}

ActiveRun::State ActiveRun::go_on() {
  if (child_) {
    const std::optional<int> code = child_->ended();
    if (!code) {
      if (stopping_ && since(asked_) >= 1) ask_to_stop();  // a launcher may have lost the first one
      return State::Working;
    }
    child_.reset();
    if (const State state = ended(*code); state != State::Working) return state;
  }
  if (stopping_) return State::Stopped;
  if (!trained_) {
    start_training();
    return State::Working;
  }
  if (start_measuring()) return State::Working;
  finish();
  return State::Done;
}

ActiveRun::State ActiveRun::ended(int code) {
  const bool trained = std::exchange(training_, false);
  if (code == 0 && trained) {
    trained_ = true;
    trained_at_ = Clock::now();
    return State::Working;
  }
  if (code == 0) {
    const std::string& file = (*measures_)[next_++].file;
    fsync_file(file + ".part");  // or its name may survive a power cut without it
    rename_durable(file + ".part", file);
    return State::Working;
  }
  if (stopping_ || (trained && code == kStoppedBySignal)) return State::Stopped;
  error_ = last_error(folder_ + "/train.log", log_begin_, code);
  if (!trained) error_ = (*measures_)[next_].arguments[0] + ": " + error_;
  return State::Failed;
}

void ActiveRun::start(Command command) {
  command.log = folder_ + "/train.log";
  log_begin_ = fs::exists(command.log) ? fs::file_size(command.log) : 0;
  child_ = std::make_unique<Child>(command);
}

void ActiveRun::start_training() {
  if (seconds() < kWaitForFolder && !is_free(folder_)) return;  // the next poll tries again
  prepare_run(study_, run_);
  start(command_on_ranks(launcher_, {"train", folder_ + "/config.json"}, run_.config.device, slot_));
  training_ = true;
}

// False where everything is measured.
bool ActiveRun::start_measuring() {
  if (!measures_) {
    fs::remove(folder_ + "/measures.json");  // of what the study asked for before
    measures_ = measure_commands(study_, run_, folder_);
  }
  while (next_ < measures_->size() && fs::exists((*measures_)[next_].file)) ++next_;
  if (next_ == measures_->size()) return false;
  const MeasureCommand& m = (*measures_)[next_];
  Command command = m.over_ranks ? command_on_ranks(launcher_, m.arguments, run_.config.device, slot_)
                                 : command_alone(launcher_, m.arguments);
  command.output = m.file + ".part";
  start(std::move(command));
  return true;
}

void ActiveRun::finish() {
  const RunMeasures measures = collect_measures(study_, run_, folder_);
  write_text_atomic(folder_ + "/measures.json", to_json(measures).dump() + "\n");
  remove_old_steps(folder_, 1);
}

void ActiveRun::ask_to_stop() {
  stopping_ = true;
  asked_ = Clock::now();
  if (child_) child_->signal(training_ ? SIGUSR1 : SIGTERM);
}

}  // namespace upcycle
