#pragma once
#include <cstdio>
#include <string>

#include "launch/backend.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// RUN/metrics.jsonl, append-only, one line a step; and one line a step on the console, with the time left.
class Metrics {
 public:
  // `run_dir` empty: console alone. `peak_flops`: of all ranks, for MFU.
  Metrics(const std::string& run_dir, double peak_flops, const Config& config);
  ~Metrics();
  Metrics(const Metrics&) = delete;

  void step(const Trainer& t, const StepResult& result, double seconds, std::int64_t total_steps);
  void eval(const Trainer& t, const std::string& set, double loss, std::int64_t tokens);

 private:
  void write(const std::string& line);
  std::FILE* file_ = nullptr;
  double peak_flops_;
  std::int64_t log_every_;
  double average_seconds_ = 0;
};

// FLOP/s of large matrix products in `dtype` on this backend (on the CPU: with the threads of this process), measured:
// what MFU is a share of. On a GPU that is less than its data sheet says. Takes a fraction of a second.
double measure_peak_flops(const Backend& backend, DType dtype);

}  // namespace upcycle
