#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/serve/scheduler.h"

namespace upcycle {

// What a step did, summed over the replicas (dp ranks), which step together.
struct StepReport {
  std::vector<EmittedToken> tokens;
  std::int64_t rows = 0, prompt_rows = 0;  // tokens computed; those of prompts among them
  std::int64_t sequences = 0;              // that they belong to
  std::int64_t waiting = 0, running = 0;   // requests, when the step was chosen
  std::int64_t preemptions = 0;            // of this step
  // Of MoE models: distinct experts that got tokens, summed over the MoE layers; assignments (token, expert) likewise.
  std::int64_t experts_touched = 0, assignments = 0;
  double weight_bytes = 0;  // of weights that the step's products read: what is dense, and the experts touched
};

// What serves requests in steps: the engine on its machine's clock, or its prediction on a clock of its own. All ranks
// make the same calls in the same order.
class Server {
 public:
  virtual ~Server() = default;
  virtual void add(Request request) = 0;  // InputError if it can never be served
  virtual bool cancel(std::int64_t id) = 0;
  virtual bool busy() const = 0;
  virtual const StepReport& step() = 0;  // one step of all replicas; valid until the next
  // Tokens that each expert got so far, over the MoE layers, of this rank's ep group; empty where that is not known.
  virtual std::span<const std::int64_t> expert_tokens() const { return {}; }
  virtual double now() = 0;                  // seconds, equal on all ranks
  virtual void wait_until(double time) = 0;  // returns at `time` or later; at once if it is past
};

}  // namespace upcycle
