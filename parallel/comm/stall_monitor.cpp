#include "parallel/comm/stall_monitor.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "core/abort.h"
#include "core/check.h"
#include "core/progress.h"
#include "core/trace.h"
#include "parallel/comm/heartbeats.h"
#include "parallel/comm/host_records.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/stall_report.h"
#include "parallel/comm/timeout_report.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

enum Tag { kReport = 1, kQuestion, kAlarm, kFailed, kGoOn, kBeat, kDescribe, kSections };
constexpr Seconds kLookEvery{0.02};
// A process that did not look for this long was itself stopped (Ctrl-Z, a suspended job): that time is not counted as
// waiting.
constexpr Seconds kStopped{3};

Clock::duration ticks(double seconds) { return std::chrono::duration_cast<Clock::duration>(Seconds(seconds)); }

double grace_of(double timeout) { return std::clamp(timeout / 20, 2.0, 10.0); }

}  // namespace

struct StallMonitor::Impl {
  int rank = 0, size = 1;
  MPI_Comm comm = MPI_COMM_NULL;  // its own: no group's traffic can match its messages
  std::vector<std::string> hosts;
  std::atomic<double> timeout{600};

  // Written by the main thread, read by the watchdog.
  std::atomic<Clock::rep> inside_since{0};  // 0: outside
  std::atomic<const char*> inside_what{""}, inside_library{""};

  // The main thread's.
  Clock::time_point begin{}, last_seen{}, last_look{};
  Clock::time_point quiet_since{};  // of this wait: when the time-out was last started anew
  bool looked = false;              // in this wait
  std::map<int, StallReport> reports;
  Clock::time_point first_asked{};  // when rank 0, which then sums up, last asked
  std::optional<Heartbeats> beats;
  struct Send {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::vector<RankSection> sections;         // that other ranks have described
  std::vector<std::unique_ptr<Send>> sends;  // of this wait and earlier ones, until they have arrived

  std::mutex report_mutex;  // of what makes a report, which the main thread and the watchdog do
  std::optional<HostRecords> records;
  std::string report_folder;
  const std::time_t started = std::time(nullptr);

  std::mutex mutex;
  std::condition_variable ends;
  bool ending = false;
  std::map<const void*, std::function<std::string(double)>> probes;  // by their owner
  std::thread watchdog;

  void gather_hosts();
  void watch();
  bool is_reporter() const { return rank == 0 || rank == size - 1; }
  double waited() const { return Seconds(last_seen - begin).count(); }
  double quiet() const { return Seconds(last_seen - quiet_since).count(); }
  StallReport own(const Waiting& w) const {
    return {rank, waited(), w.group, w.op, w.sequence, w.bytes, {w.world_ranks.begin(), w.world_ranks.end()}, quiet()};
  }
  void send(int to, Tag tag, std::vector<std::byte> bytes = {});
  void answer(const Waiting& w);
  void answer_describe();
  bool take(Tag tag);
  std::optional<std::pair<int, std::vector<std::byte>>> next(Tag tag);
  void hear();
  void start_anew(Clock::time_point since);
  enum class Until : std::uint8_t { TimeIsOver, AllAnswered, ToldToGoOn, AllDescribed };
  bool exchange(const Waiting& w, double seconds, Until until);
  bool described() const;
  std::set<int> working() const;
  std::vector<StallReport> all_reports() const;
  std::string unanswered(const Waiting& w) const;
  std::optional<Clock::time_point> last_sign() const;
  void ask_all(const Waiting& w, double grace);
  void settle(const Waiting& w);
  std::vector<RankSection> describe_host();
  std::vector<RankSection> describe_all(const Waiting& w);
  std::string report(const std::string& line, std::vector<RankSection> all);
  [[noreturn]] void end(const Waiting& w, const std::string& text);
  [[noreturn]] void end_as_reporter(const Waiting& w);
  [[noreturn]] void end_failed(const Waiting& w);
};

void StallMonitor::Impl::gather_hosts() {
  char name[HOST_NAME_MAX + 1] = "";
  UPCYCLE_CHECK(gethostname(name, sizeof(name) - 1) == 0, "this machine's name can not be read");
  std::vector<char> all(static_cast<std::size_t>(size) * sizeof(name));
  UPCYCLE_MPI(MPI_Allgather(name, sizeof(name), MPI_CHAR, all.data(), sizeof(name), MPI_CHAR, comm));
  for (int r = 0; r < size; ++r) hosts.emplace_back(all.data() + static_cast<std::size_t>(r) * sizeof(name));
}

void StallMonitor::Impl::send(int to, Tag tag, std::vector<std::byte> bytes) {
  std::erase_if(sends, [](const auto& sent) {
    int arrived = 0;
    UPCYCLE_MPI(MPI_Test(&sent->request, &arrived, MPI_STATUS_IGNORE));
    return arrived != 0;
  });
  auto& s = *sends.emplace_back(std::make_unique<Send>(Send{std::move(bytes)}));
  UPCYCLE_MPI(MPI_Isend(s.bytes.data(), static_cast<int>(s.bytes.size()), MPI_BYTE, to, tag, comm, &s.request));
}

void StallMonitor::Impl::answer(const Waiting& w) {
  for (int asked = 1; asked != 0;) {
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, kQuestion, comm, &asked, &status));
    if (asked == 0) return;
    UPCYCLE_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, kQuestion, comm, MPI_STATUS_IGNORE));
    if (status.MPI_SOURCE == 0) first_asked = Clock::now();
    send(status.MPI_SOURCE, kReport, to_bytes(own(w)));
  }
}

void StallMonitor::Impl::answer_describe() {
  for (int asked = 1; asked != 0;) {
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, kDescribe, comm, &asked, &status));
    if (asked == 0) return;
    UPCYCLE_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, kDescribe, comm, MPI_STATUS_IGNORE));
    send(status.MPI_SOURCE, kSections, to_bytes(describe_host()));
  }
}

// Receives all messages of that kind that have arrived; true if there were any. Their contents do not matter.
bool StallMonitor::Impl::take(Tag tag) {
  for (bool taken = false;; taken = true) {
    int came = 0;
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &came, &status));
    if (came == 0) return taken;
    UPCYCLE_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, tag, comm, MPI_STATUS_IGNORE));
  }
}

// The next message of that kind and its sender; nullopt where none has come.
std::optional<std::pair<int, std::vector<std::byte>>> StallMonitor::Impl::next(Tag tag) {
  int came = 0, bytes = 0;
  MPI_Status status;
  UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &came, &status));
  if (came == 0) return {};
  UPCYCLE_MPI(MPI_Get_count(&status, MPI_BYTE, &bytes));
  std::vector<std::byte> text(static_cast<std::size_t>(bytes));
  UPCYCLE_MPI(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, tag, comm, MPI_STATUS_IGNORE));
  return {{status.MPI_SOURCE, std::move(text)}};
}

// Receives the reports and sections that have arrived.
void StallMonitor::Impl::hear() {
  while (const auto came = next(kReport)) reports[came->first] = report_from_bytes(came->second);
  while (const auto came = next(kSections))
    for (RankSection& s : sections_from_bytes(came->second)) sections.push_back(std::move(s));
}

// At least half a time-out passes before the next inquiry: while ranks ask, their transfers do not move.
void StallMonitor::Impl::start_anew(Clock::time_point since) {
  last_seen = Clock::now();
  quiet_since = std::clamp(since, std::max(quiet_since, last_seen - ticks(timeout / 2)), last_seen);
  inside_since.store(last_seen.time_since_epoch().count());  // the watchdog's too
}

std::set<int> StallMonitor::Impl::working() const {
  std::set<int> ranks;
  for (int r = 0; r < size; ++r)
    if (r != rank && beats->working(r, timeout)) ranks.insert(r);
  return ranks;
}

// Answers and listens for that long; false when the time is up.
bool StallMonitor::Impl::exchange(const Waiting& w, double seconds, Until until) {
  const auto start = Clock::now();
  while (Seconds(Clock::now() - start).count() < seconds) {
    answer(w);
    answer_describe();
    beats->hear(false);
    hear();
    if (until == Until::AllDescribed && described()) return true;
    if (until == Until::ToldToGoOn &&
        (take(kGoOn) || (beats->working(0, timeout) && beats->working(size - 1, timeout))))
      return true;
    if (until == Until::AllAnswered) {
      std::set<int> known = working();
      for (const auto& [r, report] : reports) known.insert(r);
      if (known.size() == hosts.size()) return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

void StallMonitor::Impl::ask_all(const Waiting& w, double grace) {
  hear();
  reports.clear();  // earlier reports answer an earlier inquiry
  reports[rank] = own(w);
  for (int r = 0; r < size; ++r)
    if (r != rank) send(r, kQuestion);
  exchange(w, grace, Until::AllAnswered);
}

std::vector<StallReport> StallMonitor::Impl::all_reports() const {
  std::vector<StallReport> all;
  for (const auto& [r, report] : reports) all.push_back(report);
  return all;
}

std::string StallMonitor::Impl::unanswered(const Waiting& w) const {
  return fmt::format("rank {} on {} waited {:.0f} s in {} {} #{}, and neither rank 0 nor rank {} answers", rank,
                     hosts[static_cast<std::size_t>(rank)], waited(), w.group, w.op, w.sequence, size - 1);
}

// When the ranks that are waited for last gave a sign of progress; nullopt if one of them gave none in time.
std::optional<Clock::time_point> StallMonitor::Impl::last_sign() const {
  const double limit = timeout;
  std::set<int> missing = missing_ranks(all_reports());
  const bool all_came = missing.empty();
  for (const int r : working()) missing.erase(r);
  if (!missing.empty()) return {};
  if (!all_came) return beats->latest() + ticks(Heartbeats::interval(limit));
  // All have arrived. If one has only just arrived, they may continue any moment.
  double shortest = limit;
  for (const auto& [r, report] : reports) shortest = std::min(shortest, report.seconds);
  if (shortest > limit / 2) return {};
  return Clock::now() - ticks(shortest);
}

// Some rank's time-out has passed. Returns only if all missing ranks are at work: then the time starts anew, at their
// last beat.
void StallMonitor::Impl::settle(const Waiting& w) {
  const double limit = timeout, grace = grace_of(limit);
  take(kGoOn);
  if (!is_reporter()) {
    send(0, kAlarm);
    send(size - 1, kAlarm);
    // Meanwhile a reporter ends the job, or tells to go on. One that is itself at work can do neither.
    if (!exchange(w, 4 * grace, Until::ToldToGoOn) && !beats->working(0, limit) && !beats->working(size - 1, limit))
      end(w, unanswered(w));
    return start_anew(std::max(beats->latest() + ticks(Heartbeats::interval(limit)), Clock::now() - ticks(limit / 2)));
  }
  ask_all(w, grace);
  // The wait that raised an alarm may have ended since.
  if (std::none_of(reports.begin(), reports.end(), [&](const auto& r) { return r.second.quiet > limit; }))
    return start_anew(Clock::now() - ticks(quiet()));
  const auto sign = last_sign();
  if (!sign) end_as_reporter(w);
  for (const auto& [r, report] : reports)
    if (r != rank) send(r, kGoOn);
  start_anew(*sign);
}

void StallMonitor::Impl::end_as_reporter(const Waiting& w) {
  const double grace = grace_of(timeout);
  // Rank 0 ends the job meanwhile, where it answers or asked too: two that report at once would miss each other.
  if (rank != 0 && (reports.contains(0) || Seconds(Clock::now() - first_asked).count() < 3 * grace)) {
    send(0, kFailed);
    exchange(w, 3 * grace, Until::TimeIsOver);
  }
  end(w, stall_summary(all_reports(), hosts, working()));
}

void StallMonitor::Impl::end(const Waiting& w, const std::string& text) {
  reports[rank] = own(w);
  const double limit = timeout;
  const bool late = std::any_of(reports.begin(), reports.end(), [&](const auto& r) { return r.second.quiet > limit; });
  const std::string line = late ? fmt::format("{} (parallel.timeout_s = {:g})", text, limit) : text;
  abort_job(line + report(line, describe_all(w)));
}

// This host's ranks, by this one.
std::vector<RankSection> StallMonitor::Impl::describe_host() {
  const std::lock_guard lock(report_mutex);
  return records->describe(grace_of(timeout) / 2);
}

// Whether every rank whose host has one that waits, by its report, has a section.
bool StallMonitor::Impl::described() const {
  std::set<int> missing;
  for (const auto& [r, report] : reports) missing.insert(r);
  for (const RankSection& s : sections) missing.erase(s.rank);
  return missing.empty();
}

// All that can be known: of each host, from one of its ranks that wait. Takes half as long again as describe_host.
std::vector<RankSection> StallMonitor::Impl::describe_all(const Waiting& w) {
  sections.clear();
  std::set<std::string> asked = {hosts[static_cast<std::size_t>(rank)]};
  for (const auto& [r, report] : reports)
    if (asked.insert(hosts[static_cast<std::size_t>(r)]).second) send(r, kDescribe);
  for (RankSection& s : describe_host()) sections.push_back(std::move(s));
  // On a host whose ranks do not see each other (each in its own container) each speaks for itself.
  hear();
  std::set<int> known;
  for (const RankSection& s : sections) known.insert(s.rank);
  for (const auto& [r, report] : reports)
    if (hosts[static_cast<std::size_t>(r)] == hosts[static_cast<std::size_t>(rank)] && !known.contains(r))
      send(r, kDescribe);
  if (asked.size() > 1 || !described()) exchange(w, grace_of(timeout), Until::AllDescribed);
  std::map<int, RankSection> by_rank;
  for (RankSection& s : sections) by_rank.try_emplace(s.rank, std::move(s));
  std::vector<RankSection> all;
  for (auto& [r, section] : by_rank) all.push_back(std::move(section));
  return all;
}

// Writes it; what the line that ends the run says of it.
std::string StallMonitor::Impl::report(const std::string& line, std::vector<RankSection> all) {
  const std::string text = timeout_report(line, std::move(all), hosts);
  const std::lock_guard lock(report_mutex);
  const std::string path = report_folder.empty() ? "" : write_report(report_folder, rank, started, text);
  if (path.empty()) std::fputs(text.c_str(), stderr);
  return "; report: " + (path.empty() ? "above" : path);
}

// A transfer has failed, here or on another rank.
void StallMonitor::Impl::end_failed(const Waiting& w) {
  const double grace = grace_of(timeout);
  if (is_reporter()) {
    ask_all(w, grace);
    end_as_reporter(w);
  }
  send(0, kFailed);
  send(size - 1, kFailed);
  exchange(w, 4 * grace, Until::TimeIsOver);
  end(w, unanswered(w));
}

// Waits that the main thread can not end itself: it is stuck inside a call of MPI or NCCL.
void StallMonitor::Impl::watch() {
  Clock::rep seen = 0;
  double stuck = 0;
  auto last = Clock::now();
  std::unique_lock lock(mutex);
  while (!ends.wait_for(lock, std::chrono::milliseconds(500), [this] { return ending; })) {
    const auto now = Clock::now();
    const Clock::rep since = inside_since.load();
    stuck = since == 0 || since != seen ? 0 : stuck + std::min(Seconds(now - last), kStopped).count();
    seen = since;
    last = now;
    // Longer than any way in which the main thread would end the job.
    const double limit = timeout + 6 * grace_of(timeout) + 5;
    std::string what;
    for (const auto& [owner, stuck_in] : probes)
      if (what.empty()) what = stuck_in(limit);
    if (what.empty() && stuck < limit) continue;
    if (what.empty())
      what = fmt::format("stands inside {} for {:.0f} s ({})", inside_library.load(), stuck, inside_what.load());
    const CollectiveRecord c = trace_counters().last;
    std::vector<RankSection> sections = describe_host();
    // Inside a library nobody says whom it waits for.
    for (const RankSection& x : sections)
      if (!x.silent.empty()) what += fmt::format("; rank {} of this host {}", x.rank, x.silent);
    const std::string line =
        fmt::format("rank {} on {}: {}; its last collective: {}", rank, hosts[static_cast<std::size_t>(rank)], what,
                    c.op.empty() ? "none" : fmt::format("{} {} #{}", c.group, c.op, c.sequence));
    const std::string where = report(line, std::move(sections));
    std::fputs(fmt::format("upcycle: {}{}\n", line, where).c_str(), stderr);
    std::_Exit(1);
  }
}

StallMonitor::StallMonitor() : impl_(std::make_unique<Impl>()) {
  Impl& i = *impl_;
  UPCYCLE_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &i.rank));
  UPCYCLE_MPI(MPI_Comm_size(MPI_COMM_WORLD, &i.size));
  if (i.size == 1) return;  // nobody to wait for
  UPCYCLE_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &i.comm));
  UPCYCLE_MPI(MPI_Comm_set_errhandler(i.comm, MPI_ERRORS_RETURN));
  i.gather_hosts();
  i.records.emplace(i.comm, i.hosts);
  i.beats.emplace(i.comm, kBeat);
  set_progress_listener([&i] { i.beats->beat(i.timeout); });
  i.watchdog = std::thread([&i] { i.watch(); });
}

StallMonitor::~StallMonitor() {
  if (!impl_->watchdog.joinable()) return;
  set_progress_listener(nullptr);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->ends.notify_one();
  impl_->watchdog.join();
}

void StallMonitor::set_timeout(double seconds) { impl_->timeout = seconds; }

void StallMonitor::set_report_folder(const std::string& folder) {
  const std::lock_guard lock(impl_->report_mutex);
  impl_->report_folder = folder;
}

void StallMonitor::set_probe(const void* owner, std::function<std::string(double)> stuck) {
  const std::lock_guard lock(impl_->mutex);
  impl_->probes.erase(owner);
  if (stuck) impl_->probes.emplace(owner, std::move(stuck));
}

StallMonitor::Inside::Inside(StallMonitor& monitor, const char* what, const char* library)
    : monitor_(monitor), outermost_(monitor.impl_->inside_since.load(std::memory_order_relaxed) == 0) {
  if (!outermost_) return;
  Impl& i = *monitor_.impl_;
  i.begin = i.quiet_since = i.last_seen = Clock::now();
  i.looked = false;
  i.inside_what.store(what, std::memory_order_relaxed);
  i.inside_library.store(library, std::memory_order_relaxed);
  i.inside_since.store(i.begin.time_since_epoch().count());
}

StallMonitor::Inside::~Inside() {
  if (outermost_) monitor_.impl_->inside_since.store(0);
}

void StallMonitor::fail(const Waiting& waiting, const std::string& why) {
  const Inside inside(*this, "ending the job");
  Impl& i = *impl_;
  std::fprintf(stderr, "upcycle: rank %d on %s: %s\n", i.rank, i.hosts[static_cast<std::size_t>(i.rank)].c_str(),
               why.c_str());
  i.end_failed(waiting);
}

void StallMonitor::look(const Waiting& waiting) {
  Impl& i = *impl_;
  const auto now = Clock::now();
  if (now - i.last_seen > kStopped) {
    i.begin += now - i.last_seen;
    i.quiet_since += now - i.last_seen;
  }
  i.last_seen = now;
  if (now - i.last_look < kLookEvery) return;
  i.last_look = now;
  i.beats->hear(!std::exchange(i.looked, true));
  i.answer(waiting);
  i.answer_describe();
  if (i.take(kGoOn)) i.start_anew(Clock::now());
  if (i.take(kFailed)) i.end_failed(waiting);
  if (i.take(kAlarm) || i.quiet() > i.timeout) i.settle(waiting);
}

}  // namespace upcycle
