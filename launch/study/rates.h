#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/study/grid.h"
#include "launch/study/measures.h"

namespace upcycle {

// The learning rate that the sweep of an arm at a cell chose, of these runs: null as long as one of them is not in
// `settled`, or where none of them is done. Compared is the loss on the half of study.new_set that is for choosing,
// mean over the seeds; a rate with a failed run counts as worst.
struct Settled {
  bool done = false;
  double loss = 0;  // of a done run
};
std::optional<double> chosen_rate(const StudyArm& arm, const Cell& cell, const std::vector<StudyRun>& runs,
                                  const std::map<std::string, Settled>& settled);

// OUTPUT/rates.json: how fast training steps of each (size, arm) are on so many devices while nothing else runs; arm ""
// = the dense model.
struct TrainingRate {
  double tokens_per_s = 0;
  std::int64_t ranks = 1;
};
using TrainingRates = std::map<std::pair<std::string, std::string>, TrainingRate>;
TrainingRates read_rates(const Study& study);
void write_rates(const Study& study, const TrainingRates& rates);
// The config, JSON, whose training steps `upcycle bench step` times for them.
std::string config_to_time(const Study& study, const StudySize& size, const StudyArm* arm);

}  // namespace upcycle
