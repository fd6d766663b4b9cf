#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/study/file_marks.h"
#include "launch/study/grid.h"
#include "launch/study/measures.h"

namespace upcycle {

using KnownRuns = std::function<std::vector<StudyRun>(const ChosenRate& chosen, const MeasuredRate& measured)>;

// Where every run of a study stands, as its folders say: several drivers work on them.
class RunStates {
 public:
  enum class State {
    Done,
    Failed,   // since this driver started; an earlier failure is tried again
    Missing,  // needs one that failed or is missing
    Waiting,  // needs one that is not finished yet
    Ready,    // can be started, unless another driver has it
  };

  RunStates(const Study& study, KnownRuns known, MeasuredRate measured);

  // Looks again. InputError where a run's folder belongs to another config or start.
  void refresh();
  State look_at(const StudyRun& run);  // of one run; state() is that of the last refresh
  void failed(const std::string& name, const std::string& error);

  const std::vector<StudyRun>& runs() const { return runs_; }  // known so far
  bool has(const std::string& name) const { return states_.contains(name); }
  State state(const std::string& name) const { return states_.at(name); }
  const RunMeasures& measures(const std::string& name) const { return done_.at(name); }
  // Those that will be known once all sweeps have ended, with the number that they had if each chose its middle rate.
  const std::vector<StudyRun>& expected() const { return expected_; }
  std::vector<StudyResult> results(const std::function<std::string(const StudyRun&)>& command) const;

 private:
  void look_at(const std::vector<StudyRun>& runs);
  std::optional<double> chosen(const StudyArm& arm, const Cell& cell) const;

  const Study& study_;
  KnownRuns known_;
  MeasuredRate measured_;
  double started_;
  std::vector<StudyRun> before_sweeps_, runs_, expected_;
  std::map<std::string, RunMeasures> done_;
  std::map<std::string, std::string> failed_, missing_;  // why
  std::map<std::string, State> states_;
  std::map<std::string, bool> checked_;
  FileMarks marks_;
  bool changed_ = true;  // since runs_ was asked for
};

}  // namespace upcycle
