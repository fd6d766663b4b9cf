#pragma once
#include <fmt/core.h>

#include <string>
#include <utility>

namespace upcycle {

enum class LogLevel { Info, Warning };

// Only rank 0 (the default) prints information; every rank prints warnings, with its rank if that is not 0.
void set_log_rank(int rank);
int log_rank();

// What stays below all lines on a terminal until the next call: progress. "" removes it. It is cut to the terminal's
// width. Elsewhere (files, pipes, other ranks than 0) nothing is printed.
void set_status_line(const std::string& text);
// Columns of the terminal that standard error is; 0: it is none, or can not go back in a line (TERM).
int terminal_width();

// One line on standard error: standard output is for results (`--json`).
void log_line(LogLevel level, const std::string& text);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_rank() == 0) log_line(LogLevel::Info, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::Warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace upcycle
