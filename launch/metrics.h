#pragma once
#include <chrono>
#include <optional>
#include <string>

#include "launch/appended_file.h"
#include "launch/event_file.h"
#include "launch/stragglers.h"
#include "launch/yardstick.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// Writes RUN/metrics.jsonl, append-only, one line per step; and one line per step to the console (step_line.h), on a
// terminal above a bar; and both to train.tensorboard_dir, under Megatron's tags where it has them. A disk that takes
// no line does not end the run (appended_file.h).
class Metrics {
 public:
  // `run_dir` empty: console only. `yardstick`: of all ranks, for MFU. The backend must outlive this.
  Metrics(const std::string& run_dir, Yardstick yardstick, const Config& config, const Backend& backend);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  // `ranks`: where they were compared after this step.
  void step(const Trainer& t, const StepResult& result, double seconds, std::int64_t total_steps,
            const std::optional<RankTimes>& ranks = {});
  // A step that was skipped, after `culprit` (find_not_finite; "" of a spike).
  void skipped(const Trainer& t, const StepResult& result, const std::string& culprit);
  // `bytes`: to which the predicted tokens decode; 0: not known.
  void eval(const Trainer& t, const std::string& set, double loss, std::int64_t tokens, std::int64_t bytes);

 private:
  void write(const std::string& line);
  std::size_t memory();  // in use on this rank; asked for once a second: a step of a GPU should not wait for its driver
  std::optional<AppendedFile> file_;
  std::optional<EventFile> events_;  // train.tensorboard_dir
  Yardstick yardstick_;
  const Backend& backend_;
  std::int64_t log_every_;
  double average_seconds_ = 0;  // of a sequence
  std::int64_t steps_timed_ = 0;
  std::size_t memory_ = 0;
  std::chrono::steady_clock::time_point memory_asked_;
};

}  // namespace upcycle
