#pragma once
#include <memory>

#include "core/trace.h"
#include "launch/backend.h"

namespace upcycle {

// The steps that a profiler records: train.profile_step_start to train.profile_step_end, counted from 1, inclusive.
// They are enclosed in the range "profile" (NVTX), and on CUDA in cudaProfilerStart and Stop. Closed at the latest with
// the run.
class ProfileWindow {
 public:
  ProfileWindow(const Backend& backend, const TrainConfig& train);
  ~ProfileWindow();
  ProfileWindow(const ProfileWindow&) = delete;
  void before_step(std::int64_t step);
  void after_step(std::int64_t step);
  void warn_unopened(std::int64_t step) const;  // at the run's end, after `step`: warns if nothing was recorded

 private:
  void close();
  const Backend& backend_;
  std::int64_t first_, last_;
  int exceptions_at_start_;
  bool opened_ = false;
  std::unique_ptr<TraceRange> range_;
};

}  // namespace upcycle
