#include "launch/chrome_trace.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace upcycle {
namespace {

constexpr std::size_t kMostSpans = std::size_t{1} << 22, kDropped = SIZE_MAX;
constexpr int kFirstStreamRow = 1000, kRows = 2000;  // of a rank

std::atomic<std::uint64_t> traces{0};

// The ranges that a thread has open, of the trace with this id.
struct OpenRanges {
  std::uint64_t trace = 0;
  int row = 0;
  std::vector<std::size_t> spans;
};
thread_local OpenRanges open_ranges;

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Perfetto takes equal numbers in two processes for one thread, and 0 for the idle one.
int thread_of(int rank, int row) { return 1 + rank * kRows + row; }

std::string titled(const char* what, int rank, int row, const std::string& title) {
  return fmt::format("{{\"ph\":\"M\",\"name\":\"{}\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":{}}}}}", what, rank,
                     thread_of(rank, row), nlohmann::json(title).dump());
}

}  // namespace

ChromeTrace::ChromeTrace(Device& device, Stream& compute, TraceSink* also)
    : also_(also), compute_(compute), moments_(device.make_moments()), id_(++traces) {
  if (moments_ != nullptr) {
    compute.synchronize();
    moments_->record(compute);  // its time is start_, to some microseconds
    compute.synchronize();
  }
  start_ = std::chrono::steady_clock::now();
}

int ChromeTrace::number_of(std::string_view name) {
  const auto found = numbers_.find(name);
  if (found != numbers_.end()) return found->second;
  names_.emplace_back(name);
  return numbers_.emplace(name, static_cast<int>(names_.size()) - 1).first->second;
}

std::size_t ChromeTrace::open(Span span) {
  if (spans_.size() == kMostSpans) {
    ++dropped_;
    return kDropped;
  }
  spans_.push_back(span);
  return spans_.size() - 1;
}

void ChromeTrace::begin(std::string_view name) {
  if (also_ != nullptr) also_->begin(name);
  const std::lock_guard lock(mutex_);
  OpenRanges& mine = open_ranges;
  if (mine.trace != id_) mine = {id_, threads_++, {}};
  const auto now = std::chrono::steady_clock::now() - start_;
  mine.spans.push_back(
      open({.row = mine.row, .name = number_of(name), .begin = std::chrono::nanoseconds(now).count()}));
}

void ChromeTrace::end() {
  const auto now = std::chrono::steady_clock::now() - start_;
  if (also_ != nullptr) also_->end();
  const std::lock_guard lock(mutex_);
  OpenRanges& mine = open_ranges;
  if (mine.trace != id_ || mine.spans.empty()) return;
  if (mine.spans.back() != kDropped) spans_[mine.spans.back()].end = std::chrono::nanoseconds(now).count();
  mine.spans.pop_back();
}

void ChromeTrace::cost(const WorkCost& cost) {
  const std::lock_guard lock(mutex_);
  const OpenRanges& mine = open_ranges;
  if (mine.trace == id_ && !mine.spans.empty() && mine.spans.back() != kDropped) spans_[mine.spans.back()].cost = cost;
}

void ChromeTrace::work_begins(Stream& stream, std::string_view name, const WorkCost& cost) {
  if (moments_ == nullptr || stream.kind() != DeviceKind::Cuda) return;
  const std::lock_guard lock(mutex_);
  // Streams of groups are called by the first word of their work: "tp all_gather".
  const auto& [row, title] =
      streams_
          .try_emplace(&stream, kFirstStreamRow + static_cast<int>(streams_.size()),
                       &stream == &compute_ ? "GPU" : "GPU " + std::string(name.substr(0, name.find(' '))))
          .first->second;
  const auto moment = static_cast<std::int64_t>(moments_->record(stream));
  open_work_[&stream] = open({.row = row, .name = number_of(name), .begin = moment, .cost = cost});
}

void ChromeTrace::work_ends(Stream& stream) {
  if (moments_ == nullptr || stream.kind() != DeviceKind::Cuda) return;
  const std::lock_guard lock(mutex_);
  const auto found = open_work_.find(&stream);
  if (found == open_work_.end()) return;
  const auto moment = static_cast<std::int64_t>(moments_->record(stream));
  if (found->second != kDropped) spans_[found->second].end = moment;
  open_work_.erase(found);
}

std::string ChromeTrace::events(int rank, Time origin) {
  const std::lock_guard lock(mutex_);
  const std::vector<double> seconds = moments_ != nullptr ? moments_->seconds() : std::vector<double>{};
  const double shift = std::chrono::duration<double, std::micro>(start_ - origin).count();
  const auto time_of = [&](const Span& s, std::int64_t time) {  // microseconds
    return shift + (s.row >= kFirstStreamRow ? 1e6 * seconds.at(static_cast<std::size_t>(time))
                                             : static_cast<double>(time) / 1e3);
  };
  std::string text = titled("process_name", rank, 0, fmt::format("rank {} on {}", rank, host_name()));
  const auto add = [&](const std::string& event) { text += ",\n" + event; };
  add(fmt::format(
      "{{\"ph\":\"M\",\"name\":\"process_sort_index\",\"pid\":{},\"tid\":{},\"args\":{{\"sort_index\":{}}}}}", rank,
      thread_of(rank, 0), rank));
  for (int t = 0; t < threads_; ++t)
    add(titled("thread_name", rank, t, t == 0 ? "host" : fmt::format("host thread {}", t)));
  for (const auto& [stream, row] : streams_) add(titled("thread_name", rank, row.first, row.second));
  for (const Span& s : spans_) {
    if (s.end < 0) continue;
    const double from = time_of(s, s.begin), micros = std::max(0.0, time_of(s, s.end) - from);
    fmt::format_to(
        std::back_inserter(text), ",\n{{\"ph\":\"X\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f}",
        nlohmann::json(names_[static_cast<std::size_t>(s.name)]).dump(), rank, thread_of(rank, s.row), from, micros);
    if (s.cost.flops > 0 || s.cost.bytes > 0)
      fmt::format_to(std::back_inserter(text), ",\"args\":{{\"flops\":{:.0f},\"bytes\":{:.0f}}}", s.cost.flops,
                     s.cost.bytes);
    text += "}";
  }
  return text;
}

}  // namespace upcycle
