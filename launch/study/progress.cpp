#include "launch/study/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "core/log.h"

namespace upcycle {

void Pace::saw(const StudyRun& run, const RunMeasures& m) {
  if (!(run.flops > 0) || !(m.wall_seconds > 0)) return;
  const auto& size = run.cell.size;
  for (const auto& key :
       {std::pair{size, run.arm}, std::pair{size, std::string("*")}, {std::string(), std::string()}}) {
    Sum& sum = sums_[key];
    sum.flops += run.flops;
    sum.seconds += m.wall_seconds;
  }
}

void Pace::saw_measuring(double seconds) {
  measuring_ += std::max(0.0, seconds);
  measured_ += 1;
}

std::optional<double> Pace::seconds_of(const StudyRun& run) const {
  const auto& size = run.cell.size;
  for (const auto& key : {std::pair{size, run.arm}, std::pair{size, std::string("*")}, {std::string(), std::string()}})
    if (const auto found = sums_.find(key); found != sums_.end())
      return run.own_flops * found->second.seconds / found->second.flops + (measured_ > 0 ? measuring_ / measured_ : 0);
  return std::nullopt;
}

double share_trained(const std::string& metrics_file, std::int64_t tokens) {
  std::ifstream in(metrics_file, std::ios::ate);
  if (!in || tokens <= 0) return 0;
  const std::streamoff end = in.tellg(), begin = std::max<std::streamoff>(0, end - 65536);
  in.seekg(begin);
  double done = 0;
  for (std::string line; std::getline(in, line);) {
    const Json j = Json::parse(line, nullptr, false);
    if (j.is_object() && j.contains("tokens") && j["tokens"].is_number()) done = j["tokens"].get<double>();
  }
  return std::clamp(done / static_cast<double>(tokens), 0.0, 1.0);
}

std::string duration_text(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds);
  if (s < 86400) return fmt::format("{:02d}:{:02d}:{:02d}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{} days {:02d}:{:02d}:{:02d}", s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
}

std::string bytes_text(double bytes) {
  constexpr double kGiB = 1 << 30, kMiB = 1 << 20;
  return bytes >= kGiB ? fmt::format("{:.1f} GiB", bytes / kGiB) : fmt::format("{:.1f} MiB", bytes / kMiB);
}

Console::Console() : terminal_(::isatty(2) == 1) {}
Console::~Console() { status(""); }

void Console::say(const std::string& line) {
  const std::string kept = status_;
  status("");
  log_info("{}", line);
  status(kept);
}

void Console::status(const std::string& line) {
  if (!terminal_ || line == status_) return;
  winsize window{};
  const bool known = ::ioctl(2, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  status_ = line;
  std::fprintf(stderr, "\r\033[K%s", line.substr(0, known ? window.ws_col - 1U : 79U).c_str());
  std::fflush(stderr);
}

}  // namespace upcycle
