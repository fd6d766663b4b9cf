#include "launch/study/run_states.h"

#include <algorithm>
#include <cmath>

#include "core/log.h"
#include "launch/study/collect.h"
#include "launch/study/rates.h"
#include "launch/study/run_folder.h"
#include "launch/study/run_start.h"

namespace upcycle {

RunStates::RunStates(const Study& study, KnownRuns known, MeasuredRate measured)
    : study_(study), known_(std::move(known)), measured_(std::move(measured)), started_(seconds_since_1970()) {}

std::optional<double> RunStates::chosen(const StudyArm& arm, const Cell& cell) const {
  std::map<std::string, Settled> settled;
  for (const StudyRun& run : before_sweeps_) {
    const auto state = states_.find(run.name);
    if (!run.sweep || state == states_.end()) continue;
    if (state->second == State::Failed || state->second == State::Missing) settled[run.name] = {};
    if (state->second != State::Done) continue;
    for (const SetMeasures& set : done_.at(run.name).sets)
      if (set.name == study_.new_set) {
        const double loss = mean_loss(set, Half::Choosing);
        settled[run.name] = {std::isfinite(loss), loss};
      }
  }
  return chosen_rate(arm, cell, before_sweeps_, settled);
}

void RunStates::refresh() {
  if (before_sweeps_.empty()) {
    before_sweeps_ = known_([](const StudyArm&, const Cell&) { return std::optional<double>(); }, measured_);
    runs_ = before_sweeps_;
  }
  look_at(runs_);
  if (!std::exchange(changed_, false)) return;
  const ChosenRate choose = [this](const StudyArm& arm, const Cell& cell) { return chosen(arm, cell); };
  runs_ = known_(choose, measured_);
  look_at(runs_);
  changed_ = false;  // what is known now may be done already, but sweeps are known from the beginning
  expected_ = known_(
      [&](const StudyArm& arm, const Cell& cell) {
        const std::optional<double> rate = choose(arm, cell);
        return rate ? rate : arm.rates(cell.size)[arm.rates(cell.size).size() / 2];
      },
      measured_);
}

void RunStates::look_at(const std::vector<StudyRun>& runs) {
  for (const StudyRun& run : runs)
    if (!std::exchange(checked_[run.name], true)) {
      check_same_config(study_, run);
      check_same_start(study_, run, runs, marks_);
    }
  for (const StudyRun& run : runs) {
    const State state = look_at(run);
    const auto [known, added] = states_.emplace(run.name, state);
    changed_ = changed_ || (!added && known->second != state);
    known->second = state;
  }
}

RunStates::State RunStates::look_at(const StudyRun& run) {
  if (done_.contains(run.name)) return State::Done;
  const std::string folder = run_folder(study_, run.name);
  if (std::optional<RunMeasures> m = read_measures(study_, run, folder)) {
    done_[run.name] = std::move(*m);
    failed_.erase(run.name);
    return State::Done;
  }
  if (const auto failure = read_failure(folder); failure && failure->at >= started_) failed_[run.name] = failure->error;
  if (failed_.contains(run.name)) return State::Failed;
  missing_.erase(run.name);
  for (const std::string& need : run.needs) {
    const auto other = states_.find(need);
    if (other != states_.end() && other->second == State::Done) continue;
    if (other != states_.end() && other->second != State::Failed && other->second != State::Missing)
      return State::Waiting;
    missing_[run.name] = fmt::format("needs {}, which {}", need,
                                     other == states_.end()            ? "the study does not have"
                                     : other->second == State::Missing ? "is missing"
                                                                       : "failed");
    return State::Missing;
  }
  return State::Ready;
}

void RunStates::failed(const std::string& name, const std::string& error) {
  failed_[name] = error;
  states_[name] = State::Failed;
  changed_ = true;
  try {
    write_failure(run_folder(study_, name), error);  // for other drivers
  } catch (const std::exception& e) {
    log_warn("{}", e.what());
  }
}

std::vector<StudyResult> RunStates::results(const std::function<std::string(const StudyRun&)>& command) const {
  std::vector<StudyResult> all;
  const auto add = [&](const StudyRun& run, const std::string& status, const std::string& error) {
    StudyResult r{run, status, error, run_folder(study_, run.name), command(run), {}};
    if (status == "done") r.measures = done_.at(run.name);
    all.push_back(std::move(r));
  };
  for (const StudyRun& run : runs_) {
    const State state = states_.at(run.name);
    if (state == State::Done)
      add(run, "done", "");
    else if (state == State::Failed)
      add(run, "failed", failed_.at(run.name));
    else
      add(run, "missing", missing_.contains(run.name) ? missing_.at(run.name) : "");
  }
  // A sweep without a result leaves its arm without runs.
  for (const StudyRun& run : expected_)
    if (!states_.contains(run.name))
      add(run, "missing", fmt::format("no learning rate of the sweep of {} could be trained", run.arm));
  return all;
}

}  // namespace upcycle
