#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace upcycle {

class Stream;

// What an op or a transfer does; 0: not counted.
struct WorkCost {
  double flops = 0, bytes = 0;
};

// Receives named ranges (for a profiler or timeline). Without a sink a range costs one atomic load.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual void begin(std::string_view name) = 0;
  virtual void end() = 0;                // of the innermost open range of this thread
  virtual void cost(const WorkCost&) {}  // of that range
  // What is put into the stream between the two, by this thread, is work of this name.
  virtual void work_begins(Stream&, std::string_view /*name*/, const WorkCost&) {}
  virtual void work_ends(Stream&) {}
};

// Not owned; must outlive every range opened while it is set. Null: none.
void set_trace_sink(TraceSink* sink);
TraceSink* trace_sink();

// A named range, from construction to the end of the scope. It ends in the sink in which it began.
class TraceRange {
 public:
  explicit TraceRange(std::string_view name, const WorkCost& cost = {});
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  TraceSink* sink_;
};

// The same for the work that is put into a stream in the scope.
class TraceWork {
 public:
  TraceWork(Stream& stream, std::string_view name, const WorkCost& cost);
  ~TraceWork();
  TraceWork(const TraceWork&) = delete;
  TraceWork& operator=(const TraceWork&) = delete;

 private:
  TraceSink* sink_;
  Stream& stream_;
};

struct CollectiveRecord {
  std::string group, op;       // "tp", "all_reduce"; empty: none yet
  std::uint64_t sequence = 0;  // number of the collective within its group
  std::size_t bytes = 0;       // contributed by this rank
  std::chrono::steady_clock::time_point when;
};
struct CollectiveCount {
  std::string group, op;
  std::uint64_t calls = 0, bytes = 0;
  double wait_seconds = 0;  // the host waited for it and for what its group had queued before it
};
struct TraceCounters {
  CollectiveRecord last;
  std::vector<CollectiveCount> counts;  // one per (group, op), in the order of their first call

  CollectiveCount of(std::string_view group, std::string_view op) const;  // zeros when it was never called
  double wait_seconds() const;                                            // sum over all
};

// Called by every communicator at the start of every collective; any thread may read concurrently (the watchdog does).
// Allocates only on the first call for a (group, op). The number of the call in the flight record (flight_record.h), in
// which the communicator notes its end.
std::uint64_t record_collective(std::string_view group, std::uint64_t sequence, std::string_view op, std::size_t bytes);
// Called after every wait that blocked the host.
void record_wait(std::string_view group, std::string_view op, double seconds);
TraceCounters trace_counters();
// Called when a transfer on a device has been seen to end: how long after this rank's part in it was ready.
void record_transfer(double seconds);
// In waits of the host and in transfers on devices, of all groups.
double waited_seconds();
void reset_trace_counters();

}  // namespace upcycle
