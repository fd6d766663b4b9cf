#include "core/trace.h"

#include <atomic>
#include <mutex>

#include "core/flight_record.h"

namespace upcycle {
namespace {

std::atomic<TraceSink*> current_sink{nullptr};

struct Recorded {
  std::mutex mutex;
  TraceCounters counters;
  double transfer_seconds = 0;
};
Recorded& recorded() {
  static Recorded r;
  return r;
}

CollectiveCount& count_of(TraceCounters& counters, std::string_view group, std::string_view op) {
  for (CollectiveCount& c : counters.counts)
    if (c.group == group && c.op == op) return c;
  return counters.counts.emplace_back(CollectiveCount{.group = std::string(group), .op = std::string(op)});
}

}  // namespace

void set_trace_sink(TraceSink* sink) { current_sink.store(sink, std::memory_order_release); }

TraceSink* trace_sink() { return current_sink.load(std::memory_order_acquire); }

TraceRange::TraceRange(std::string_view name, const WorkCost& cost) : sink_(trace_sink()) {
  if (sink_ == nullptr) return;
  sink_->begin(name);
  if (cost.flops > 0 || cost.bytes > 0) sink_->cost(cost);
}

TraceRange::~TraceRange() {
  if (sink_ != nullptr) sink_->end();
}

TraceWork::TraceWork(Stream& stream, std::string_view name, const WorkCost& cost)
    : sink_(trace_sink()), stream_(stream) {
  if (sink_ != nullptr) sink_->work_begins(stream, name, cost);
}

TraceWork::~TraceWork() {
  if (sink_ != nullptr) sink_->work_ends(stream_);
}

CollectiveCount TraceCounters::of(std::string_view group, std::string_view op) const {
  for (const CollectiveCount& c : counts)
    if (c.group == group && c.op == op) return c;
  return {.group = std::string(group), .op = std::string(op)};
}

double TraceCounters::wait_seconds() const {
  double sum = 0;
  for (const CollectiveCount& c : counts) sum += c.wait_seconds;
  return sum;
}

std::uint64_t record_collective(std::string_view group, std::uint64_t sequence, std::string_view op,
                                std::size_t bytes) {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  CollectiveRecord& last = r.counters.last;
  last.group.assign(group);  // assign keeps the capacity: no allocation after the first few calls
  last.op.assign(op);
  last.sequence = sequence;
  last.bytes = bytes;
  last.when = std::chrono::steady_clock::now();
  CollectiveCount& c = count_of(r.counters, group, op);
  ++c.calls;
  c.bytes += bytes;
  return flight_started(group, op, sequence, bytes,
                        std::chrono::duration_cast<std::chrono::nanoseconds>(last.when.time_since_epoch()).count());
}

void record_wait(std::string_view group, std::string_view op, double seconds) {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  count_of(r.counters, group, op).wait_seconds += seconds;
}

TraceCounters trace_counters() {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  return r.counters;
}

void record_transfer(double seconds) {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  r.transfer_seconds += seconds;
}

double waited_seconds() {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  return r.counters.wait_seconds() + r.transfer_seconds;
}

void reset_trace_counters() {
  Recorded& r = recorded();
  const std::lock_guard lock(r.mutex);
  r.counters = {};
  r.transfer_seconds = 0;
}

}  // namespace upcycle
