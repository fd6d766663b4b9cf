#pragma once
#include <memory>

#include "core/trace.h"
#include "launch/backend.h"

namespace upcycle {

// The steps that a profiler records: train.profile_step_start to train.profile_step_end, counted from 1, both in it.
// Around them lies the range "profile" (NVTX), and on CUDA cudaProfilerStart and Stop. It ends with the run at the
// latest.
class ProfileWindow {
 public:
  ProfileWindow(const Backend& backend, const TrainConfig& train);
  ~ProfileWindow();
  ProfileWindow(const ProfileWindow&) = delete;
  void before_step(std::int64_t step);
  void after_step(std::int64_t step);
  void warn_unopened(std::int64_t step) const;  // at a run's end, after this step: where nothing was recorded

 private:
  void close();
  const Backend& backend_;
  std::int64_t first_, last_;
  int exceptions_at_start_;
  bool opened_ = false;
  std::unique_ptr<TraceRange> range_;
};

}  // namespace upcycle
