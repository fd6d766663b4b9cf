#include "core/log.h"

#include <fmt/core.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>

namespace upcycle {
namespace {

std::atomic<int> rank_of_process{0};

spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("upcycle", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("%v");
    made.flush_on(spdlog::level::info);  // so that a rank that is killed next has its lines forwarded by mpirun
    return made;
  }();
  return instance;
}

}  // namespace

void set_log_rank(int rank) { rank_of_process = rank; }
int log_rank() { return rank_of_process; }

void log_line(LogLevel level, const std::string& text) {
  const int rank = log_rank();
  if (level == LogLevel::Info) {
    if (rank == 0) logger().log(spdlog::level::info, text);
    return;
  }
  logger().log(spdlog::level::warn, rank == 0 ? "warning: " + text : fmt::format("warning (rank {}): {}", rank, text));
}

}  // namespace upcycle
