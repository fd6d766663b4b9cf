#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/comm/mesh.h"
#include "parallel/train/step.h"

namespace upcycle {

// One rank over some steps; times in seconds of a step.
struct RankTime {
  double own = 0;      // without waits and transfers, the lower quartile: three steps of four took as long or longer
  double waited = 0;   // in waits and transfers, the median
  double no_core = 0;  // of its main thread, the mean: ready to run, but other work had its core; -1: not known
  double assignments = 0;  // (token, expert) pairs that its experts computed; 0: it has no experts
};

struct Straggler {
  int rank = 0;
  std::string host = {};
  double seconds = 0, ratio = 0;  // by itself, and that over the median's
  double assignments_ratio = 0;   // to the median; 0: without experts
  double no_core = -1;
};

// What a step takes on each rank by itself, in seconds: waits for slower ranks are left out.
struct RankTimes {
  double median = 0, longest = 0;
  int longest_rank = 0;
  std::vector<Straggler> slow;
};

// The rank that waits least waits for nobody: what it spends in waits and transfers, all need. A rank is slow whose own
// time with that is more than `ratio` times the median (of two ranks the faster one's). What interrupts now this rank
// and now that one leaves the best quarter of each one's steps as it is, so that it names none.
RankTimes compare_ranks(std::span<const RankTime> ranks, double ratio);

// "rank 3 on vh2 is slow: ...", with what is known of why.
std::string straggler_line(const Straggler& slow, const RankTimes& times, double ratio);

// Compares the ranks every train.straggler_every steps and names the slow ones on the console. The cost of a step grows
// by some microseconds, that of each such step by the gathering of three numbers.
class Stragglers {
 public:
  Stragglers(const Mesh& mesh, const std::string& host, const TrainConfig& config);  // a call of all ranks

  void before_step();
  // A call of all ranks. After a step that was skipped it is left out.
  std::optional<RankTimes> after_step(std::int64_t step, const StepResult& result);

 private:
  void count(const StepResult& result);
  RankTimes compare();

  const Mesh& mesh_;
  std::int64_t every_;
  double ratio_;
  std::vector<std::string> hosts_;  // by rank
  bool first_ = true;               // step of this process
  std::chrono::steady_clock::time_point begin_;
  double waited_ = 0, no_core_ = 0;  // at the begin of the step
  // Of the steps since the last comparison.
  std::vector<double> own_, waits_;
  double sum_no_core_ = 0;
  std::vector<double> assignments_;  // (E)
};

}  // namespace upcycle
