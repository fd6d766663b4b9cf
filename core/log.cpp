#include "core/log.h"

#include <fmt/core.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string_view>

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

struct Status {
  std::mutex mutex;
  std::string text;
  void erase() const {
    if (!text.empty()) fmt::print(stderr, "\r\x1b[K");
  }
  void draw() const {
    if (!text.empty()) fmt::print(stderr, "{}", text);
  }
};
Status& status() {
  static Status s;
  return s;
}

void log_above_status(spdlog::level::level_enum level, const std::string& text) {
  const Status& s = status();
  const std::lock_guard lock(status().mutex);
  s.erase();
  logger().log(level, text);
  s.draw();
}

}  // namespace

int terminal_width() {
  const char* kind = std::getenv("TERM");
  if (isatty(STDERR_FILENO) == 0 || kind == nullptr || *kind == '\0' || std::string_view(kind) == "dumb") return 0;
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void set_status_line(const std::string& text) {
  if (log_rank() != 0) return;
  const auto width = static_cast<std::size_t>(terminal_width());
  Status& s = status();
  const std::lock_guard lock(s.mutex);
  s.erase();
  s.text = width == 0 ? "" : text.substr(0, width - 1);  // the last column would begin a new line
  s.draw();
}

void set_log_rank(int rank) { rank_of_process = rank; }
int log_rank() { return rank_of_process; }

void log_line(LogLevel level, const std::string& text) {
  const int rank = log_rank();
  if (level == LogLevel::Info) {
    if (rank == 0) log_above_status(spdlog::level::info, text);
    return;
  }
  log_above_status(spdlog::level::warn,
                   rank == 0 ? "warning: " + text : fmt::format("warning (rank {}): {}", rank, text));
}

}  // namespace upcycle
