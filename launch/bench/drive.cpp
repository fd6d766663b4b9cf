#include "launch/bench/drive.h"

#include <algorithm>
#include <ctime>

#include "core/error.h"
#include "launch/bench/remote_server.h"

namespace upcycle {
namespace {

double thread_cpu() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::vector<RequestRecord> empty_records(const std::vector<TimedRequest>& requests) {
  std::vector<RequestRecord> records(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    records[i].arrival = requests[i].arrival;
    records[i].prompt_len = static_cast<std::int64_t>(requests[i].request.prompt.size());
    records[i].asked_len = requests[i].request.max_tokens;
    records[i].tokens.reserve(static_cast<std::size_t>(requests[i].request.max_tokens));
  }
  return records;
}

void fail(RequestRecord& r, double now, std::string why) {
  r.ending = Ending::Failed;
  r.end = now;
  r.error = std::move(why);
}

void record_step(LoadRun& run, const StepReport& report, double begin, double end) {
  run.steps.push_back({begin, end, report.rows, 0, report.running, report.preemptions, report.experts_touched,
                       report.assignments, report.weight_bytes});
  for (const EmittedToken& emitted : report.tokens) {
    RequestRecord& r = run.requests[static_cast<std::size_t>(emitted.id)];
    if (emitted.finished == FinishReason::Failed) {
      fail(r, end, "the server ended it");
      continue;
    }
    if (emitted.finished != FinishReason::Ended) {
      r.tokens.push_back(end);
      ++r.output_len;
      ++run.steps.back().new_tokens;
    }
    if (emitted.finished == FinishReason::None) continue;
    r.ending = Ending::Completed;
    r.end = r.tokens.back();
  }
}

// A server elsewhere knows why a request failed, and counts tokens where a message may hold several.
void add_what_it_said(LoadRun& run, const RemoteServer& server) {
  for (std::size_t i = 0; i < run.requests.size(); ++i) {
    RequestRecord& r = run.requests[i];
    if (r.ending == Ending::Unfinished) continue;
    const RemoteEnd end = server.end_of(static_cast<std::int64_t>(i));
    if (!end.error.empty()) r.error = end.error;
    if (end.prompt_tokens > 0) r.prompt_len = end.prompt_tokens;
    if (end.output_tokens > 0) r.output_len = end.output_tokens;
  }
}

}  // namespace

LoadRun drive(Server& server, std::vector<TimedRequest> requests, double stop_at) {
  LoadRun run;
  run.requests = empty_records(requests);
  auto* const remote = dynamic_cast<RemoteServer*>(&server);
  double ours_since = thread_cpu();
  const auto in_server = [&](auto&& call) -> decltype(auto) {
    if (remote != nullptr) return call();  // all of this process is the generator
    run.generator_cpu += thread_cpu() - ours_since;
    struct Back {
      double& since;
      ~Back() { since = thread_cpu(); }
    } back{ours_since};
    return call();
  };

  const double start = server.now();
  double now = 0;
  std::size_t next = 0;
  while (now < stop_at) {
    for (; next < requests.size() && requests[next].arrival <= now; ++next) {
      try {
        in_server([&] { server.add(std::move(requests[next].request)); });
      } catch (const InputError& e) {
        const std::string which = fmt::format("request {}: ", next), why = e.what();  // alike ones are counted together
        fail(run.requests[next], now, why.starts_with(which) ? why.substr(which.size()) : why);
      }
    }
    if (server.busy()) {
      if (remote != nullptr)
        remote->return_by(start + std::min(next < requests.size() ? requests[next].arrival : stop_at, stop_at));
      const StepReport* report = nullptr;
      const double end = in_server([&] {
        report = &server.step();
        return server.now() - start;
      });
      record_step(run, *report, now, end);
      now = end;
    } else {
      if (next == requests.size()) break;
      const double until = std::min(requests[next].arrival, stop_at);
      now = in_server([&] {
        server.wait_until(start + until);
        return std::max(until, server.now() - start);  // the subtraction may round to just before
      });
    }
  }
  run.duration = now;
  run.generator_cpu += thread_cpu() - ours_since;
  for (std::size_t i = 0; i < next; ++i)
    if (run.requests[i].ending == Ending::Unfinished) server.cancel(static_cast<std::int64_t>(i));
  if (remote != nullptr) add_what_it_said(run, *remote);
  return run;
}

}  // namespace upcycle
