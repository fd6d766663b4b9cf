#pragma once
#include <cstdio>
#include <string>

#include "launch/yardstick.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// Writes RUN/metrics.jsonl, append-only, one line per step; and one line per step to the console, with the time left.
class Metrics {
 public:
  // `run_dir` empty: console only. `yardstick`: of all ranks, for MFU.
  Metrics(const std::string& run_dir, Yardstick yardstick, const Config& config);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  void step(const Trainer& t, const StepResult& result, double seconds, std::int64_t total_steps);
  void eval(const Trainer& t, const std::string& set, double loss, std::int64_t tokens);

 private:
  void write(const std::string& line);
  std::FILE* file_ = nullptr;
  Yardstick yardstick_;
  std::int64_t log_every_;
  double average_seconds_ = 0;
};

}  // namespace upcycle
