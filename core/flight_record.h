#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace upcycle {

// What this process does and did last, for others to read when it no longer answers: it lies in memory that other
// processes of the host may map (share_flight_record), and is written by plain stores. Names are cut to what fits.

// What a rank is at. Updating: the optimizer.
enum class Phase : std::uint8_t {
  Starting,
  Loading,
  Forward,
  Backward,
  Reducing,
  Updating,
  Evaluating,
  Saving,
  Ending,
  Between
};
inline constexpr std::array kPhaseNames = {"starting", "loading",    "forward", "backward", "reducing",
                                           "updating", "evaluating", "saving",  "ending",   "between steps"};
inline const char* name_of(Phase p) { return kPhaseNames[static_cast<std::size_t>(p)]; }

// A place in the work; layer -1: in none.
struct Place {
  Phase phase{};
  std::int32_t layer = -1;
  std::int64_t step = 0;  // counted from 1; 0: before the first
};

// Times are nanoseconds of the host's monotonic clock.
struct FlightCall {
  std::uint64_t number = 0;  // of all calls of the process, from 1; 0: none yet
  char group[16], op[16];
  std::uint64_t sequence, bytes;
  std::int64_t started, ended;  // ended 0: this process has not seen its end
  Place place;
};

struct FlightRecord {
  static constexpr std::size_t kCalls = 8, kFrames = 64;

  std::uint64_t token = 0;             // random: whoever maps the record knows by it that it is the right one
  std::atomic<std::uint64_t> where{};  // packed phase and layer
  std::atomic<std::int64_t> step{}, phase_since{};
  std::atomic<std::uint64_t> calls{};
  FlightCall call[kCalls] = {};  // number n at (n - 1) mod kCalls

  // A process that wants the main thread's stack sets `asked` to a new number and sends kStackSignal; `given` is that
  // number when the frames' return addresses, innermost first, stand here. The first two are the signal's own.
  std::atomic<std::uint32_t> asked{}, given{};
  std::int32_t frames = 0;
  std::uint64_t address[kFrames] = {};
};

// Ignored by processes that have no handler.
extern const int kStackSignal;

FlightRecord& flight_record();
Place place_in(const FlightRecord& record);
std::int64_t flight_clock();

// Moves the record to memory without a name, which ends with the last process that maps it, and from then on answers
// kStackSignal. A descriptor for others to open through /proc, -1 where the system gives none; again the same one.
int share_flight_record();

// One more call, at that time: its number.
std::uint64_t flight_started(std::string_view group, std::string_view op, std::uint64_t sequence, std::uint64_t bytes,
                             std::int64_t now);
void flight_ended(std::uint64_t number);

void flight_step(std::int64_t step);  // from here on this step, counted from 1

// In a phase for the lifetime of this object. Main thread only, as InLayer.
class InPhase {
 public:
  explicit InPhase(Phase phase);
  ~InPhase();
  void next(Phase phase);
  InPhase(const InPhase&) = delete;
  InPhase& operator=(const InPhase&) = delete;

 private:
  std::uint64_t before_;
};

class InLayer {
 public:
  explicit InLayer(std::int64_t layer);
  ~InLayer();
  InLayer(const InLayer&) = delete;
  InLayer& operator=(const InLayer&) = delete;

 private:
  std::uint64_t before_;
};

// For tests that stop or delay a process at a place: called whenever it enters one. Null: none.
using PlaceHook = void (*)(const Place& place);
void set_place_hook(PlaceHook hook);

}  // namespace upcycle
