#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/trace.h"

namespace upcycle {

// Records ranges and the work of a device's streams, for a file in the Trace Event Format, which chrome://tracing and
// Perfetto open: a process for each rank, a row for each of its threads and streams. Work on a GPU is timed by events
// in its streams.
class ChromeTrace final : public TraceSink {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Begins to record when what `compute` has been given is done. `also`: a sink that gets the ranges too; may be null.
  ChromeTrace(Device& device, Stream& compute, TraceSink* also);

  void begin(std::string_view name) override;
  void end() override;
  void cost(const WorkCost& cost) override;
  void work_begins(Stream& stream, std::string_view name, const WorkCost& cost) override;
  void work_ends(Stream& stream) override;

  // What has been recorded, as JSON objects with commas between them; times are in microseconds since `origin`. Waits
  // for the device's work. Ranges that are still open are left out.
  std::string events(int rank, Time origin);
  std::size_t dropped() const { return dropped_; }  // spans beyond the most that are kept

 private:
  struct Span {
    int row = 0, name = 0;
    std::int64_t begin = 0, end = -1;  // ns since start_; on a GPU numbers of moments
    WorkCost cost = {};
  };
  int number_of(std::string_view name);
  std::size_t open(Span span);

  TraceSink* also_;
  Stream& compute_;
  std::unique_ptr<Moments> moments_;  // null: streams are synchronous
  Time start_;
  const std::uint64_t id_;  // of this object: what threads keep of an earlier one is void
  std::mutex mutex_;
  std::map<std::string, int, std::less<>> numbers_;
  std::vector<std::string> names_;
  std::vector<Span> spans_;
  std::map<const Stream*, std::pair<int, std::string>> streams_;  // row and title
  std::map<const Stream*, std::size_t> open_work_;
  int threads_ = 0;
  std::size_t dropped_ = 0;
};

}  // namespace upcycle
