#include "parallel/comm/host_records.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/stack_text.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/stall_report.h"

namespace upcycle {
namespace {

struct Address {
  std::int32_t process, file;
  std::uint64_t token;
};

// The other process's record; null where it is not seen from here.
FlightRecord* map_record(const Address& a) {
  if (a.file < 0) return nullptr;
  const int file = open(fmt::format("/proc/{}/fd/{}", a.process, a.file).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  struct stat info {};
  void* at = MAP_FAILED;
  if (fstat(file, &info) == 0 && info.st_size == sizeof(FlightRecord))
    at = mmap(nullptr, sizeof(FlightRecord), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return nullptr;
  auto* const record = static_cast<FlightRecord*>(at);
  if (record->token == a.token) return record;
  munmap(at, sizeof(FlightRecord));
  return nullptr;
}

// The letter of /proc/PID/stat: R, S, D, T, t or Z; '-' where the process is gone.
char state_of(int process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');  // the name may hold anything
  return name_end == std::string::npos || name_end + 2 >= line.size() ? '-' : line[name_end + 2];
}

// What a process does that can not answer: "" for one that can.
std::string silent_state(char state) {
  switch (state) {
    case '-':
      return "gone: its process has ended";
    case 'Z':
    case 'X':
      return "dead: its process has ended";
    case 'T':
      return "stopped (state T in /proc/PID/stat: by SIGSTOP or a scheduler)";
    case 't':
      return "stopped by a debugger (state t in /proc/PID/stat)";
    default:
      return "";
  }
}

double seconds_since(std::int64_t then) { return static_cast<double>(flight_clock() - then) / 1e9; }

std::string place_text(const Place& p) {
  const std::string layer = p.layer >= 0 ? fmt::format(" layer {}", p.layer) : "";
  return p.step > 0 ? fmt::format("step {}, {}{}", p.step, name_of(p.phase), layer)
                    : fmt::format("{}{}", name_of(p.phase), layer);
}

// A copy: the record may change meanwhile.
std::vector<FlightCall> calls_of(const FlightRecord& r) {
  std::vector<FlightCall> calls;
  for (const FlightCall& c : r.call)
    if (c.number != 0) calls.push_back(c);
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  for (FlightCall& c : calls) c.group[sizeof(c.group) - 1] = c.op[sizeof(c.op) - 1] = '\0';
  return calls;
}

std::string call_text(const FlightCall& c) {
  const std::string ended =
      c.ended == 0 ? "not ended" : fmt::format("ended after {:.3g} ms", static_cast<double>(c.ended - c.started) / 1e6);
  return fmt::format("{} {} #{}, {}, started {:.1f} s ago, {}", c.group, c.op, c.sequence, bytes_text(c.bytes),
                     seconds_since(c.started), ended);
}

}  // namespace

HostRecords::HostRecords(MPI_Comm comm, std::span<const std::string> hosts) {
  int rank = 0;
  UPCYCLE_MPI(MPI_Comm_rank(comm, &rank));
  Address mine{};
  mine.process = getpid();
  mine.file = share_flight_record();
  mine.token = flight_record().token;
  std::vector<Address> all(hosts.size());
  UPCYCLE_MPI(MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, all.data(), sizeof(mine), MPI_BYTE, comm));
  for (int r = 0; r < static_cast<int>(all.size()); ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (hosts[i] != hosts[static_cast<std::size_t>(rank)]) continue;
    if (r == rank)
      seen_.push_back({r, mine.process, &flight_record(), false});
    else if (FlightRecord* const record = map_record(all[i]))
      seen_.push_back({r, all[i].process, record, true});
  }
}

HostRecords::~HostRecords() {
  for (const Seen& s : seen_)
    if (s.mapped) munmap(s.record, sizeof(FlightRecord));
}

std::vector<RankSection> HostRecords::describe(double seconds) const {
  struct Asked {
    char state;
    std::uint32_t number;
  };
  std::vector<Asked> asked;
  for (const Seen& s : seen_) {
    const char state = state_of(s.process);
    const std::uint32_t number = s.record->asked.fetch_add(1, std::memory_order_acq_rel) + 1;
    asked.push_back({state, number});
    // The main thread, which is the one that waits.
    if (silent_state(state).empty()) (void)syscall(SYS_tgkill, s.process, s.process, kStackSignal);
  }
  // Another process may ask at the same time: any answer since is as good.
  const auto answered = [&](std::size_t i) {
    return static_cast<std::int32_t>(seen_[i].record->given.load(std::memory_order_acquire) - asked[i].number) >= 0;
  };
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (std::size_t i = 0; i < seen_.size(); ++i)
    while (!answered(i) && silent_state(asked[i].state).empty() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));

  std::vector<RankSection> sections;
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    const Seen& s = seen_[i];
    const FlightRecord& r = *s.record;
    const std::vector<FlightCall> calls = calls_of(r);
    std::string state = silent_state(asked[i].state);
    if (state.empty())
      state = answered(i) ? "running" : fmt::format("does not answer (state {} in /proc/PID/stat)", asked[i].state);
    RankSection section{s.rank, {}, {}, answered(i) ? "" : state};
    section.line =
        fmt::format("process {} {}; {}, for {:.1f} s; last collective: {}", s.process, state, place_text(place_in(r)),
                    seconds_since(r.phase_since.load()), calls.empty() ? "none yet" : call_text(calls.back()));
    section.text = "its last collectives, the newest first:\n";
    for (auto c = calls.rbegin(); c != calls.rend(); ++c)
      section.text += fmt::format("  {} ({})\n", call_text(*c), place_text(c->place));
    if (!answered(i)) {
      section.text += fmt::format("stack: none, its process {}\n", state);
    } else {
      constexpr std::int32_t handlers = 2;
      const std::int32_t frames = std::clamp<std::int32_t>(r.frames, handlers, FlightRecord::kFrames);
      section.text += "stack of its main thread, the innermost first:\n";
      for (const std::string& line :
           stack_text(s.process, {r.address + handlers, static_cast<std::size_t>(frames - handlers)}))
        section.text += fmt::format("  {}\n", line);
    }
    sections.push_back(std::move(section));
  }
  return sections;
}

}  // namespace upcycle
