#include "launch/profile_window.h"

#include <exception>

#include "core/log.h"

namespace upcycle {

ProfileWindow::ProfileWindow(const Backend& backend, const TrainConfig& train)
    : backend_(backend),
      first_(train.profile_step_start),
      last_(train.profile_step_end),
      exceptions_at_start_(std::uncaught_exceptions()) {}

ProfileWindow::~ProfileWindow() {
  if (range_ == nullptr) return;
  range_.reset();
  // During an exception, leave the profiler alone: it keeps what it has, and a failing call would hide the error.
  if (std::uncaught_exceptions() > exceptions_at_start_) return;
  try {
    set_profiling(backend_, false);
  } catch (const std::exception& e) {
    log_warn("profiler: {}", e.what());
  }
}

// A resumed run may start inside the window.
void ProfileWindow::before_step(std::int64_t step) {
  if (first_ == 0 || step < first_ || step > last_ || range_ != nullptr) return;
  log_info("profiler: records steps {} to {}{}", step, last_,
           backend_.gpu < 0 ? " (the range \"profile\" alone: no CUDA device is in use)" : "");
  opened_ = true;
  set_profiling(backend_, true);
  range_ = std::make_unique<TraceRange>("profile");
}

void ProfileWindow::after_step(std::int64_t step) {
  if (step >= last_ && range_ != nullptr) close();
}

void ProfileWindow::warn_unopened(std::int64_t step) const {
  if (first_ > 0 && !opened_ && log_rank() == 0)
    log_warn("profiler: recorded nothing: the run ended at step {}, train.profile_step_start is {} and _end {}", step,
             first_, last_);
}

void ProfileWindow::close() {
  range_.reset();
  set_profiling(backend_, false);
}

}  // namespace upcycle
