#pragma once
#include "launch/study/report.h"

namespace upcycle::small_study {

// One size, one duration, budgets 0.2, 0.4 and 0.8, arms "cpt" and "moe", two seeds, sets "old" and "new" of 12
// documents each (the reported half: 6). The losses of a run are easy to say by hand: see loss_of.
inline Study study() {
  Study s;
  s.file = "study.json";
  s.name = "small";
  s.output = "nowhere";
  s.valid = {{"old", "none/old"}, {"new", "none/new"}};
  s.old_set = "old";
  s.new_set = "new";
  StudySize size;
  size.name = "1M";
  s.sizes = {size};
  s.durations = {20};
  s.budgets = {0.2, 0.4, 0.8};
  s.sweep_budget = 0.2;
  StudyArm cpt;
  cpt.name = "cpt";
  cpt.learning_rates[""] = {1e-3};
  StudyArm moe = cpt;
  moe.name = "moe";
  moe.from = StartsFrom::Upcycle;
  s.arms = {cpt, moe};
  s.baseline = "cpt";
  s.candidate = "moe";
  s.seeds = s.verdict_seeds = 2;
  s.verdict = {"1M", 20, 0.8};
  return s;
}

// Nats per token of the reported half on "new", over both seeds: cpt 3.0, 2.9 and 2.8; the MoE 0.02 worse at budget
// 0.2, as good at 0.4 and 0.05 better at 0.8. Seed 2 is 0.01 higher than the first for both arms. On "old" 1 less.
inline double loss_of(const std::string& arm, double budget, const std::string& set) {
  const double cpt = budget == 0.2 ? 3.0 : budget == 0.4 ? 2.9 : 2.8;
  const double moe = budget == 0.2 ? 0.02 : budget == 0.4 ? 0 : -0.05;
  return cpt + (arm == "moe" ? moe : 0) - (set == "old" ? 1 : 0);
}

// Documents of 10 tokens. They differ by 0.5 nats, and the arms' difference by 0.002 between documents, which cancels.
// The half for choosing is 1 nat higher.
inline SetMeasures set_of(const std::string& arm, double budget, std::int64_t seed, const std::string& name) {
  SetMeasures set;
  set.name = name;
  for (int place = 0; place < 12; ++place) {
    const int d = place < 6 ? 2 * place : 2 * place - 11;  // even ones are for choosing, in the first half
    const double sign = d / 2 % 2 == 0 ? 1 : -1, own = arm == "moe" ? 0.002 * (d < 6 ? sign : -sign) : 0;
    const double loss = loss_of(arm, budget, name) + (seed == 2 ? 0.005 : -0.005) + (d % 2 == 0 ? 1 : 0) +
                        0.25 * (d < 6 ? sign : -sign) + own;
    set.documents.push_back({10 * loss, 10, 40});
  }
  return set;
}

inline StudyResult run(const std::string& arm, double budget, std::int64_t seed) {
  StudyResult r;
  r.run.name = fmt::format("1M-d20-b{:g}-{}-s{}", budget, arm, seed);
  r.run.kind = "arm";
  r.run.arm = arm;
  r.run.cell = {"1M", 20, budget};
  r.run.seed = seed;
  r.run.lr = 1e-3;
  r.run.result = true;
  r.run.tokens = static_cast<std::int64_t>(2e7 * budget);
  r.run.flops = 1.2e14 * budget;
  r.run.own_flops = r.run.flops;
  r.run.config.seed = seed;
  r.run.config.data.train = {{"none/train", 1}};
  r.run.config.checkpoint.dir = "nowhere/runs/" + r.run.name;
  if (arm == "moe") r.run.config.model.num_local_experts = 8;
  r.status = "done";
  r.folder = r.run.config.checkpoint.dir;
  r.command = "launch/run_local.sh -n 1 train " + r.folder + "/config.json";
  r.measures.steps = 100;
  r.measures.tokens = r.run.tokens;
  r.measures.parameters = arm == "moe" ? 4000000 : 1000000;
  r.measures.active_parameters = arm == "moe" ? 1500000 : 1000000;
  r.measures.flops = r.run.flops;
  r.measures.wall_seconds = 1000 * budget;
  r.measures.tokens_per_s = 2e4;
  r.measures.last_50_loss = 2.5;
  r.measures.sets = {set_of(arm, budget, seed, "old"), set_of(arm, budget, seed, "new")};
  return r;
}

inline std::vector<StudyResult> results() {
  std::vector<StudyResult> all;
  for (const double budget : {0.2, 0.4, 0.8})
    for (const char* arm : {"cpt", "moe"})
      for (const std::int64_t seed : {1, 2}) all.push_back(run(arm, budget, seed));
  return all;
}

// The MoE at half of the dense model's rate.
inline std::vector<ServingResult> serving() {
  ServingResult dense;
  dense.size = "1M";
  dense.source = "measured";
  dense.machine = "2 cores";
  dense.requests_per_s = 20;
  dense.tokens_per_s = 2e4;
  dense.latency_alone = 0.25;
  dense.curve = Json::array({{{"request_rate", 10}, {"tokens_per_s", 1e4}, {"latency", 0.3}, {"sustained", true}}});
  ServingResult moe = dense;
  moe.arm = "moe";
  moe.tokens_per_s = 1e4;
  return {dense, moe};
}

inline Json comparison_at(const Json& report, double budget, const std::string& set,
                          const std::string& rates = "given") {
  for (const Json& c : report["comparisons"])
    if (c["budget"] == budget && c["set"] == set && c["rates"] == rates) return c;
  return {};
}

}  // namespace upcycle::small_study
