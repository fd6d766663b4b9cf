#include "core/flight_record.h"

#include <execinfo.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <new>
#include <random>

namespace upcycle {

const int kStackSignal = SIGURG;

namespace {

FlightRecord own;
std::atomic<FlightRecord*> record{&own};
std::atomic<PlaceHook> place_hook{nullptr};

std::uint64_t pack(Phase phase, std::int64_t layer) {
  return static_cast<std::uint64_t>(phase) | static_cast<std::uint64_t>(layer + 1) << 8;
}
Phase phase_of(std::uint64_t where) { return static_cast<Phase>(where & 0xff); }

void begin_phase() { flight_record().phase_since.store(flight_clock(), std::memory_order_relaxed); }

// Where this process was before.
std::uint64_t enter(std::uint64_t where) {
  FlightRecord& r = flight_record();
  const std::uint64_t before = r.where.load(std::memory_order_relaxed);
  r.where.store(where, std::memory_order_relaxed);
  if (const PlaceHook hook = place_hook.load(std::memory_order_relaxed)) hook(place_in(r));
  return before;
}
void leave_to(std::uint64_t where) { flight_record().where.store(where, std::memory_order_relaxed); }

template <std::size_t n>
void copy_name(char (&to)[n], std::string_view from) {
  const std::size_t length = std::min(from.size(), n - 1);
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

// Only what is safe in a signal handler: backtrace() is, once it has been called before.
extern "C" void write_stack(int) {
  const int error = errno;
  FlightRecord& r = flight_record();
  void* frames[FlightRecord::kFrames];
  r.frames = backtrace(frames, FlightRecord::kFrames);
  for (int i = 0; i < r.frames; ++i) r.address[i] = reinterpret_cast<std::uint64_t>(frames[i]);
  r.given.store(r.asked.load(std::memory_order_acquire), std::memory_order_release);
  errno = error;
}

void answer_stack_signal() {
  void* frame = nullptr;
  (void)backtrace(&frame, 1);  // loads what later calls, in the handler, need
  struct sigaction action {};
  action.sa_handler = &write_stack;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(kStackSignal, &action, nullptr);
}

int share() {
  const int file = memfd_create("upcycle-flight", MFD_CLOEXEC);
  void* at = MAP_FAILED;
  if (file >= 0 && ftruncate(file, sizeof(FlightRecord)) == 0)
    at = mmap(nullptr, sizeof(FlightRecord), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) {
    if (file >= 0) close(file);
    return -1;
  }
  auto* const shared = new (at) FlightRecord;
  std::random_device random;
  shared->token = std::uint64_t{random()} << 32 | random();
  shared->where = own.where.load();
  const std::int64_t since = own.phase_since.load();
  shared->phase_since = since != 0 ? since : flight_clock();
  shared->step = own.step.load();
  shared->calls = own.calls.load();
  std::copy(std::begin(own.call), std::end(own.call), std::begin(shared->call));
  record = shared;
  answer_stack_signal();
  return file;
}

}  // namespace

FlightRecord& flight_record() { return *record.load(std::memory_order_relaxed); }

Place place_in(const FlightRecord& r) {
  const std::uint64_t where = r.where.load(std::memory_order_relaxed);
  return {phase_of(where), static_cast<std::int32_t>(where >> 8) - 1, r.step.load(std::memory_order_relaxed)};
}

std::int64_t flight_clock() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int share_flight_record() {
  static const int file = share();
  return file;
}

std::uint64_t flight_started(std::string_view group, std::string_view op, std::uint64_t sequence, std::uint64_t bytes,
                             std::int64_t now) {
  FlightRecord& r = flight_record();
  const std::uint64_t number = r.calls.load(std::memory_order_relaxed) + 1;
  FlightCall& c = r.call[(number - 1) % FlightRecord::kCalls];
  c.number = number;
  copy_name(c.group, group);
  copy_name(c.op, op);
  c.sequence = sequence;
  c.bytes = bytes;
  c.started = now;
  c.ended = 0;
  c.place = place_in(r);
  r.calls.store(number, std::memory_order_release);
  return number;
}

void flight_ended(std::uint64_t number) {
  if (number == 0) return;
  FlightCall& c = flight_record().call[(number - 1) % FlightRecord::kCalls];
  if (c.number == number) c.ended = flight_clock();
}

void flight_step(std::int64_t step) { flight_record().step.store(step, std::memory_order_relaxed); }

InPhase::InPhase(Phase phase) {
  begin_phase();
  before_ = enter(pack(phase, -1));
}
InPhase::~InPhase() {
  leave_to(before_);
  begin_phase();
}
void InPhase::next(Phase phase) {
  begin_phase();
  (void)enter(pack(phase, -1));
}

InLayer::InLayer(std::int64_t layer)
    : before_(enter(pack(phase_of(flight_record().where.load(std::memory_order_relaxed)), layer))) {}
InLayer::~InLayer() { leave_to(before_); }

void set_place_hook(PlaceHook hook) { place_hook = hook; }

}  // namespace upcycle
