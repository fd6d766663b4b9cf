#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "launch/bench/measure_server.h"

namespace upcycle {

// What a run of `bench serve` found.
struct ServeReport {
  BenchPlan plan;
  Measured model;
  std::optional<Measured> baseline;
  Slowdown slowdown;
  std::string predicted_for;  // the machine, where nothing was measured
};

// model, baseline (or null): offline, load (one entry per rate, vLLM's key names beside ours), capacity, max_rate
// and why the sweep ended before it was found, notes; slowdown and what else is compared; setup, with the rule.
nlohmann::ordered_json to_json(const ServeReport& report);
// Tables on standard output.
void print_report(const ServeReport& report);
// Throughput against latency of both.
std::string svg_of(const ServeReport& report);

}  // namespace upcycle
