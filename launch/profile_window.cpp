#include "launch/profile_window.h"

#include <exception>
#include <filesystem>
#include <string>

#include "core/check.h"
#include "core/config/fields.h"
#include "core/log.h"
#include "data/files.h"
#include "parallel/comm/host_group.h"

namespace upcycle {

ProfileWindow::ProfileWindow(const Backend& backend, const Mesh& mesh, const TrainConfig& train)
    : backend_(backend),
      mesh_(mesh),
      first_(train.profile_step_start),
      last_(train.profile_step_end),
      trace_file_(train.profile_trace),
      exceptions_at_start_(std::uncaught_exceptions()) {}

ProfileWindow::~ProfileWindow() {
  if (range_ == nullptr) return;
  range_.reset();
  if (trace_ != nullptr) set_trace_sink(sink_before_);
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
  const char* how = backend_.gpu < 0 ? " (the range \"profile\" alone: no CUDA device is in use)" : "";
  log_info("profiler: records steps {} to {}{}", step, last_, trace_file_.empty() ? how : " to " + trace_file_);
  opened_ = true;
  if (!trace_file_.empty()) start_trace();
  set_profiling(backend_, true);
  range_ = std::make_unique<TraceRange>("profile");
}

void ProfileWindow::after_step(std::int64_t step) {
  if (step >= last_ && range_ != nullptr) close();
}

void ProfileWindow::finish(std::int64_t step) {
  if (range_ != nullptr) close();
  if (first_ > 0 && !opened_ && log_rank() == 0)
    log_warn("profiler: recorded nothing: the run ended at step {}, train.profile_step_start is {} and _end {}", step,
             first_, last_);
}

void ProfileWindow::close() {
  range_.reset();
  set_profiling(backend_, false);
  if (trace_ != nullptr) write_trace();
}

// Ranks of a host share its clock. Between hosts clocks are aligned where all leave a barrier.
void ProfileWindow::start_trace() {
  mesh_.world->barrier();  // the first may make connections
  mesh_.world->barrier();
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  const std::string first =
      mesh_.host == nullptr ? std::to_string(now) : mesh_.host->ranks().broadcast_text(std::to_string(now), 0);
  origin_ = ChromeTrace::Time(ChromeTrace::Time::duration(std::stoll(first)));
  sink_before_ = trace_sink();
  trace_ = std::make_unique<ChromeTrace>(*backend_.device, *backend_.stream, sink_before_);
  set_trace_sink(trace_.get());
}

// One rank's events after the other, so that rank 0 holds those of one other rank at a time.
void ProfileWindow::write_trace() {
  set_trace_sink(sink_before_);
  const std::string mine = trace_->events(mesh_.rank, origin_);
  const double dropped = mesh_.world->sum_of(static_cast<double>(trace_->dropped()));
  trace_.reset();
  const std::string unfinished = trace_file_ + ".tmp";
  FileDescriptor file = mesh_.rank == 0 ? create_file(unfinished) : FileDescriptor{};
  std::uint64_t at = 0;
  const auto write = [&](const std::string& text) {
    if (mesh_.rank != 0) return;
    file.write_at(at, text.data(), text.size());
    at += text.size();
  };
  write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  for (int r = 0; r < mesh_.layout.world; ++r)
    write((r > 0 ? ",\n" : "") + mesh_.world->gather_text(r == mesh_.rank ? mine : ""));
  write("\n]}\n");
  if (mesh_.rank != 0) return;
  file.close_checked();
  rename_durable(unfinished, trace_file_);
  if (dropped > 0) log_warn("profiler: {:.0f} ranges were too many and are left out: record fewer steps", dropped);
  log_info("profiler: {} opens in https://ui.perfetto.dev and chrome://tracing", trace_file_);
}

void check_trace_file(const Config& config) {
  const std::string& file = config.train.profile_trace;
  if (file.empty() || std::filesystem::is_directory(parent_folder(file))) return;
  const char* key = "train.profile_trace";
  field_error(config.where(key), key, file, "a file in a folder that is there", "make the folder");
}

}  // namespace upcycle
