#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launch/bench/offline.h"
#include "launch/bench/sweep.h"
#include "parallel/comm/layout.h"

namespace upcycle {

// What is served, as far as a benchmark has to know it.
struct ServedModel {
  std::string name;
  std::int64_t vocab_size = 0, max_model_len = 0;  // tokens; max_model_len 0: not known
  std::int64_t max_num_seqs = 256;                 // of all replicas
  std::int64_t moe_layers = 0;                     // 0: dense
  bool in_steps = true;                            // false: elsewhere; its steps are not known, and offline is left out
  Layout layout;                                   // where in_steps
};

struct BenchPlan {
  Workload workload;
  bool may_shorten = false;           // the lengths, where the time is too short for them
  std::vector<std::int64_t> batches;  // of the offline table
  bool thorough = false;              // keeps the rule of sustained.h whatever it takes
  std::int64_t repetitions = 0, most_rates = 0;
  double rate_step = 0;                                      // 0: a part of the capacity
  double seconds = std::numeric_limits<double>::infinity();  // for each server
  Goodput goodput;
  bool calibrate = false;                       // measure rows for it
  std::function<void(const std::string&)> say;  // a line of progress
};

struct Measured {
  ServedModel model;
  std::vector<OfflineRow> offline;
  std::vector<OfflineRow> calibration;  // the same of short prompts: what a machine's constants are fitted to
  Capacity capacity;
  SweepOptions options;
  Sweep sweep;
  std::vector<std::int64_t> expert_tokens;  // see Server
  std::vector<std::string> notes;           // what fell short
};

// Offline table, capacity and rates of an idle server. The first server decides what is left open in the plan (shorter
// lengths, the step between rates), so that later ones are asked the same. InputError where not one request completes.
Measured measure_server(Server& server, const ServedModel& model, BenchPlan& plan);

// The MoE beside its dense base.
struct EqualRate {
  double rate = 0;
  std::optional<double> measured;                            // the MoE's mean end-to-end latency over the dense model's
  std::optional<double> predicted;                           // the same by the cost model
  bool model_sustained = false, baseline_sustained = false;  // by all repetitions
};
struct EqualLatency {
  double e2e_ms = 0, model_tokens_per_s = 0, baseline_tokens_per_s = 0;
};
struct Slowdown {
  std::vector<EqualRate> at_rate;
  std::vector<EqualLatency> at_latency;  // 1.25 to 8 times the dense model's lowest, as far as both curves reach
};
// A server that predicts one, on its own clock; null where there is none.
using Predict = std::function<std::unique_ptr<Server>()>;
Slowdown compare(const Measured& model, const Measured& baseline, const Workload& workload,
                 const Predict& predict_model, const Predict& predict_baseline);

}  // namespace upcycle
