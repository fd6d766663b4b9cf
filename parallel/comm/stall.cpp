#include "parallel/comm/stall.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "core/abort.h"
#include "core/error.h"
#include "core/trace.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/stall_report.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

enum Tag { kReport = 1, kQuestion = 2 };
constexpr Seconds kLookEvery{0.02};
// A process that did not look for this long was itself stopped (Ctrl-Z, a suspended job): that is no time of waiting.
constexpr Seconds kStopped{3};

double grace_of(double timeout) { return std::clamp(timeout / 20, 2.0, 10.0); }

}  // namespace

struct StallMonitor::Impl {
  int rank = 0, size = 1;
  MPI_Comm comm = MPI_COMM_NULL;  // its own: nothing of a group's traffic can meet it
  std::vector<std::string> hosts;
  std::atomic<double> timeout{600};

  // Written by the main thread, read by the watchdog.
  std::atomic<Clock::rep> inside_since{0};  // 0: outside
  std::atomic<const char*> inside_what{""};

  // The main thread's.
  Clock::time_point begin{}, last_seen{}, last_look{};
  std::map<int, StallReport> reports;
  bool first_asked = false;  // rank 0 sums up
  struct Send {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::vector<std::unique_ptr<Send>> sends;  // until the job ends

  std::mutex mutex;
  std::condition_variable ends;
  bool ending = false;
  std::map<const void*, std::function<std::string(double)>> probes;  // by their owner
  std::thread watchdog;

  void gather_hosts();
  void watch();
  bool is_reporter() const { return rank == 0 || rank == size - 1; }
  double waited() const { return Seconds(last_seen - begin).count(); }
  StallReport own(const Waiting& w) const {
    return {rank, waited(), w.group, w.op, w.sequence, w.bytes, {w.world_ranks.begin(), w.world_ranks.end()}};
  }
  void send(int to, Tag tag, std::vector<std::byte> bytes);
  void answer(const Waiting& w);
  bool hear();
  void exchange(const Waiting& w, double seconds, bool until_all = false);
  [[noreturn]] void end(const Waiting& w);
};

void StallMonitor::Impl::gather_hosts() {
  char name[HOST_NAME_MAX + 1] = "";
  UPCYCLE_CHECK(gethostname(name, sizeof(name) - 1) == 0, "this machine's name can not be read");
  std::vector<char> all(static_cast<std::size_t>(size) * sizeof(name));
  UPCYCLE_MPI(MPI_Allgather(name, sizeof(name), MPI_CHAR, all.data(), sizeof(name), MPI_CHAR, comm));
  for (int r = 0; r < size; ++r) hosts.emplace_back(all.data() + static_cast<std::size_t>(r) * sizeof(name));
}

void StallMonitor::Impl::send(int to, Tag tag, std::vector<std::byte> bytes) {
  auto& s = *sends.emplace_back(std::make_unique<Send>(Send{std::move(bytes)}));
  UPCYCLE_MPI(MPI_Isend(s.bytes.data(), static_cast<int>(s.bytes.size()), MPI_BYTE, to, tag, comm, &s.request));
}

void StallMonitor::Impl::answer(const Waiting& w) {
  for (int asked = 1; asked != 0;) {
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, kQuestion, comm, &asked, &status));
    if (asked == 0) return;
    UPCYCLE_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, kQuestion, comm, MPI_STATUS_IGNORE));
    if (status.MPI_SOURCE == 0) first_asked = true;
    send(status.MPI_SOURCE, kReport, to_bytes(own(w)));
  }
}

// True when somebody's report came.
bool StallMonitor::Impl::hear() {
  for (bool heard = false;; heard = true) {
    int came = 0, bytes = 0;
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, kReport, comm, &came, &status));
    if (came == 0) return heard;
    UPCYCLE_MPI(MPI_Get_count(&status, MPI_BYTE, &bytes));
    std::vector<std::byte> text(static_cast<std::size_t>(bytes));
    UPCYCLE_MPI(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kReport, comm, MPI_STATUS_IGNORE));
    reports[status.MPI_SOURCE] = report_from_bytes(text);
  }
}

void StallMonitor::Impl::exchange(const Waiting& w, double seconds, bool until_all) {
  const auto start = Clock::now();
  while (Seconds(Clock::now() - start).count() < seconds) {
    answer(w);
    if (is_reporter()) hear();
    if (until_all && reports.size() == hosts.size()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void StallMonitor::Impl::end(const Waiting& w) {
  const double limit = timeout, grace = grace_of(limit);
  reports[rank] = own(w);
  if (is_reporter()) {
    for (int r = 0; r < size; ++r)
      if (r != rank) send(r, kQuestion, {});
    exchange(w, grace, true);
    if (rank != 0 && first_asked) exchange(w, 2 * grace);  // rank 0 ends the job meanwhile
  } else {
    send(0, kReport, to_bytes(reports[rank]));
    send(size - 1, kReport, to_bytes(reports[rank]));
    exchange(w, 4 * grace);  // a reporter ends the job meanwhile
  }
  std::vector<StallReport> all;
  for (const auto& [r, report] : reports) all.push_back(report);
  std::string text = stall_summary(all, hosts);
  if (!is_reporter())
    text = fmt::format("rank {} on {} waited {:.0f} s in {} {} #{}, and neither rank 0 nor rank {} answers", rank,
                       hosts[static_cast<std::size_t>(rank)], waited(), w.group, w.op, w.sequence, size - 1);
  const bool late = std::any_of(all.begin(), all.end(), [&](const StallReport& r) { return r.seconds > limit; });
  abort_job(late ? fmt::format("{} (parallel.timeout_s = {:g})", text, limit) : text);
}

// Waits of the main thread that it can not end itself: it stands inside an MPI call.
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
    // Longer than every way on which the main thread would end the job.
    const double limit = timeout + 6 * grace_of(timeout) + 5;
    std::string what;
    for (const auto& [owner, stuck_in] : probes)
      if (what.empty()) what = stuck_in(limit);
    if (what.empty() && stuck < limit) continue;
    if (what.empty()) what = fmt::format("stands inside MPI for {:.0f} s ({})", stuck, inside_what.load());
    const CollectiveRecord c = trace_counters().last;
    const std::string text = fmt::format("upcycle: rank {} on {}: {}; its last collective: {}\n", rank,
                                         hosts[static_cast<std::size_t>(rank)], what,
                                         c.op.empty() ? "none" : fmt::format("{} {} #{}", c.group, c.op, c.sequence));
    std::fputs(text.c_str(), stderr);
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
  i.watchdog = std::thread([&i] { i.watch(); });
}

StallMonitor::~StallMonitor() {
  if (!impl_->watchdog.joinable()) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->ends.notify_one();
  impl_->watchdog.join();
}

void StallMonitor::set_timeout(double seconds) { impl_->timeout = seconds; }

void StallMonitor::set_probe(const void* owner, std::function<std::string(double)> stuck) {
  const std::lock_guard lock(impl_->mutex);
  impl_->probes.erase(owner);
  if (stuck) impl_->probes.emplace(owner, std::move(stuck));
}

StallMonitor::Inside::Inside(StallMonitor& monitor, const char* what)
    : monitor_(monitor), outermost_(monitor.impl_->inside_since.load(std::memory_order_relaxed) == 0) {
  if (!outermost_) return;
  Impl& i = *monitor_.impl_;
  i.begin = i.last_seen = Clock::now();
  i.inside_what.store(what, std::memory_order_relaxed);
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
  i.end(waiting);
}

void StallMonitor::look(const Waiting& waiting) {
  Impl& i = *impl_;
  const auto now = Clock::now();
  if (now - i.last_seen > kStopped) i.begin += now - i.last_seen;
  i.last_seen = now;
  if (now - i.last_look < kLookEvery) return;
  i.last_look = now;
  i.answer(waiting);
  if ((i.is_reporter() && i.hear()) || i.waited() > i.timeout) i.end(waiting);
}

}  // namespace upcycle
