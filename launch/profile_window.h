#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "core/trace.h"
#include "launch/backend.h"
#include "launch/chrome_trace.h"

namespace upcycle {

// The steps that a profiler records: train.profile_step_start to train.profile_step_end, counted from 1, inclusive.
// They are enclosed in the range "profile" (NVTX), and on CUDA in cudaProfilerStart and Stop. With train.profile_trace
// they are recorded here too, and all ranks' become one Chrome trace. Closed at the latest with the run.
class ProfileWindow {
 public:
  ProfileWindow(const Backend& backend, const Mesh& mesh, const TrainConfig& train);
  ~ProfileWindow();  // what an exception cuts short leaves no trace
  ProfileWindow(const ProfileWindow&) = delete;
  // Collective, all three.
  void before_step(std::int64_t step);
  void after_step(std::int64_t step);
  void finish(std::int64_t step);  // at the run's end, after `step`: closes the window, warns if it never opened

 private:
  void close();
  void start_trace();
  void write_trace();
  const Backend& backend_;
  const Mesh& mesh_;
  std::int64_t first_, last_;
  std::string trace_file_;
  int exceptions_at_start_;
  bool opened_ = false;
  TraceSink* sink_before_ = nullptr;
  ChromeTrace::Time origin_;  // on all ranks about the same moment
  std::unique_ptr<ChromeTrace> trace_;
  std::unique_ptr<TraceRange> range_;
};

// InputError if train.profile_trace is in no folder. For rank 0, which writes it.
void check_trace_file(const Config& config);

}  // namespace upcycle
