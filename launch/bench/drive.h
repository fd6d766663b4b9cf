#pragma once
#include <string>
#include <vector>

#include "launch/bench/workload.h"
#include "parallel/serve/server.h"

namespace upcycle {

enum class Ending : std::uint8_t { Unfinished, Completed, Failed };

// What became of a request; times in seconds after the run began.
struct RequestRecord {
  double arrival = 0;          // as drawn, whenever the server could take it: waiting counts
  std::vector<double> tokens;  // when each new token came; of a server elsewhere each message, which may hold several
  double end = 0;              // of a completed request the last token's time, of a failed one that of its failure
  std::int64_t prompt_len = 0, output_len = 0;  // tokens
  std::int64_t asked_len = 0;                   // new tokens that were asked for
  Ending ending = Ending::Unfinished;
  std::string error;  // of a failed one

  double ttft() const { return tokens.front() - arrival; }
  double e2el() const { return end - arrival; }
  bool has_tpot() const { return output_len > 1; }
  double tpot() const { return (e2el() - ttft()) / static_cast<double>(output_len - 1); }
};

// One step of the server, but for its tokens.
struct StepRecord {
  double begin = 0, end = 0;
  std::int64_t rows = 0, new_tokens = 0, running = 0, preemptions = 0;
  std::int64_t experts_touched = 0, assignments = 0;
  double weight_bytes = 0;
};

struct LoadRun {
  std::vector<RequestRecord> requests;
  std::vector<StepRecord> steps;
  double duration = 0;       // seconds
  double generator_cpu = 0;  // seconds of CPU that were spent here and not in the server
};

// Gives the server each request when it arrives, and steps it, until all have ended or `stop_at` (seconds after the
// beginning) has come: then what is left is cancelled and stays Unfinished. A request that the server refuses or gives
// up is Failed. On ranks: all make the same call.
LoadRun drive(Server& server, std::vector<TimedRequest> requests, double stop_at);

}  // namespace upcycle
