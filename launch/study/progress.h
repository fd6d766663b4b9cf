#pragma once
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/study/grid.h"
#include "launch/study/measures.h"

namespace upcycle {

// How long runs take: from the FLOPs and seconds of those that ended, by size and arm. Where a kind of run has not been
// seen, that of all runs of its size, else of all.
class Pace {
 public:
  void saw(const StudyRun& run, const RunMeasures& measures);
  void saw_measuring(double seconds);
  std::optional<double> seconds_of(const StudyRun& run) const;  // from start to end; null: nothing was seen yet

 private:
  struct Sum {
    double flops = 0, seconds = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums_;  // ("", "") is all, (size, "*") all of a size
  double measuring_ = 0, measured_ = 0;
};

// The share of its training that a run has done, as its metrics say.
double share_trained(const std::string& metrics_file, std::int64_t tokens);

std::string duration_text(double seconds);  // "01:02:03", "2 days 03:04:05"
std::string bytes_text(double bytes);

// A line of what happens, on standard error; on a terminal the status below it is kept up to date.
class Console {
 public:
  Console();
  ~Console();
  void say(const std::string& line);
  void status(const std::string& line);

 private:
  bool terminal_;
  std::string status_;
};

}  // namespace upcycle
