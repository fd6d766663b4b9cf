#pragma once
#include "launch/study/study.h"

// A report.json as small as one with everything in it can be; names hold what HTML would take for its own.
namespace upcycle {

inline Json small_run(const std::string& arm, double budget, int seed, double loss) {
  const bool dense = arm == "c<p>t" || arm.empty();
  const double tokens = dense ? 4000 * (budget + 1) : 3000 * (budget + 1);
  const std::string name = arm + "_" + std::to_string(budget) + "_" + std::to_string(seed);
  Json run{{"name", name},
           {"kind", arm.empty() ? "pretraining" : "arm"},
           {"arm", arm},
           {"size", "1M"},
           {"duration", 20},
           {"budget", budget},
           {"seed", seed},
           {"learning_rate", 0.001},
           {"sweep", false},
           {"result", !arm.empty()},
           {"status", "done"},
           {"error", ""},
           {"folder", "runs/" + name},
           {"command", "train <b>&\"x\"</b>"},
           {"differences", {{"model.num_local_experts", 8}, {"a<i>b", "</code>"}}},
           {"parameters", dense ? 1000000 : 4000000},
           {"active_parameters", dense ? 1000000 : 1500000},
           {"tokens", tokens},
           {"flops", tokens * 6e6},
           {"wall_seconds", tokens / 41.0},
           {"device_seconds", tokens / 41.0},
           {"own_flops", tokens * 6e6},
           {"own_device_seconds", tokens / 41.0},
           {"tokens_per_second", 41},
           {"epochs", 0.4},
           {"last_50_loss", loss + 0.01},
           {"loss", {{"new", loss}, {"old", loss - 0.5}}},
           {"bits_per_byte", {{"new", loss / 2}}},
           {"cloze", {{"new", {{"accuracy", 0.4}, {"corrected", 0.2}, {"standard_error", 0.01}, {"items", 1000}}}}},
           {"curve", {{"tokens", {tokens / 2, tokens}}, {"loss", {loss + 1, loss + 0.25}}}},
           {"held_out", {{"new", {{"tokens", {tokens / 4, tokens}}, {"loss", {loss + 0.5, loss}}}}}},
           {"load", Json()},
           {"experts", Json()}};
  if (dense) return run;
  run["load"] = {{"tokens", {100, 200}},
                 {"layers", {0, 1}},
                 {"max_over_mean", {{1.5, 1.25}, {1.125, 1.0625}}},
                 {"entropy", {{0.7, 0.6}, {0.65, 0.55}}}};
  run["experts"] = {{"tokens", {0, 3000}},
                    {"layers", {0, 1}},
                    {"weight_cosine", {{1, 1}, {0.98, 0.97}}},
                    {"pair_cosine", {{1, 1}, {0.93, 0.92}}},
                    {"output_cosine", {{1, 1}, {0.83, 0.82}}},
                    {"routing_changed", {nullptr, {0.31, 0.29}}},
                    {"load", {{{0.5, 0.5}, {0.5, 0.5}}, {{0.4375, 0.5625}, {0.25, 0.75}}}}};
  return run;
}

inline Json small_report() {
  Json r{{"verdict", "upcycled & c<p>t: <script>alert(1)</script>"},
         {"study",
          {{"name", "a <small> study"},
           {"file", "study.json"},
           {"flops", "causal"},
           {"flops_rule", "six for each"},
           {"match", "flops"},
           {"schedule", "each its own cosine"},
           {"baseline", "c<p>t"},
           {"candidate", "upcycled"},
           {"old_set", "old"},
           {"new_set", "new"},
           {"verdict_cell", {{"size", "1M"}, {"duration", 20}, {"budget", 0.4}}},
           {"budgets_in_tokens", false},
           {"seeds", 2},
           {"notes", {"one <note>"}}}},
         {"runs", Json::array()},
         {"comparisons", Json::array()},
         {"sweeps",
          {{{"arm", "upcycled"},
            {"size", "1M"},
            {"duration", 20},
            {"budget", 0.2},
            {"rule", "paper"},
            {"rates", {1e-4, 2e-4, 4e-4}},
            {"loss", {3.3, 3.2, nullptr}},
            {"best", 2e-4},
            {"interior", false}}}},
         {"serving", Json::array()},
         {"break_even",
          {{{"size", "1M"},
            {"duration", 20},
            {"budget", 0.4},
            {"arm", "upcycled"},
            {"set", "new"},
            {"served_tokens", nullptr},
            {"answer", "never: <em>"},
            {"loss_moe", 2.9},
            {"cpt_seconds_to_reach", nullptr},
            {"equal_total",
             {{{"served_tokens", 0}, {"baseline_loss", 3.1}, {"loss", 2.9}},
              {{"served_tokens", 1000}, {"baseline_loss", 3.05}, {"loss", 2.95}},
              {{"served_tokens", 100000}, {"baseline_loss", nullptr}, {"loss", 2.945}}}}}}},
         {"break_even_formula", "n* = (a - b) / (c < d)"},
         {"paper",
          {{"source", "arXiv 2411.08968"},
           {"loss", {{{"size", "436M"}, {"duration", 100}, {"budget", 0.1}, {"cpt", 2.0}, {"upcycled", 1.5}}}},
           {"gain", {{{"size", "436M"}, {"duration", 100}, {"budget", 0.1}, {"accuracy_gain_percent", 25}}}}}}};
  r["runs"].push_back(small_run("", 0, 1, 3.5));
  for (const double budget : {0.2, 0.4})
    for (const int seed : {1, 2}) {
      r["runs"].push_back(small_run("c<p>t", budget, seed, 3.2 - budget + 0.01 * seed));
      r["runs"].push_back(small_run("upcycled", budget, seed, 3.25 - 1.5 * budget + 0.01 * seed));
    }
  r["runs"].back()["status"] = "failed";
  r["runs"].back()["error"] = "died of <b>grief</b>";
  for (const char* set : {"new", "old"})
    for (const double budget : {0.2, 0.4})
      r["comparisons"].push_back({{"size", "1M"},
                                  {"duration", 20},
                                  {"budget", budget},
                                  {"arm", "upcycled"},
                                  {"set", set},
                                  {"rates", "paper"},
                                  {"baseline_loss", 3.0},
                                  {"loss", 3.05 - budget / 2},
                                  {"difference", 0.05 - budget / 2},
                                  {"standard_error", 0.01},
                                  {"low", 0.03 - budget / 2},
                                  {"high", 0.07 - budget / 2},
                                  {"seeds", 2},
                                  {"per_seed", {0.04 - budget / 2, 0.06 - budget / 2}},
                                  {"relative_gain", (budget / 2 - 0.05) / 3.0},
                                  {"says", "better"},
                                  {"cloze",
                                   {{"difference", 0.02},
                                    {"standard_error", 0.01},
                                    {"relative_gain", budget > 0.3 ? Json(0.08) : Json()},
                                    {"says", "no difference"}}}});
  for (const char* arm : {"", "upcycled"})
    r["serving"].push_back(
        {{"size", "1M"},
         {"arm", arm},
         {"source", "measured"},
         {"machine", "this <machine>"},
         {"devices", 1},
         {"tokens_per_second", 5000},
         {"device_seconds_per_token", *arm == '\0' ? 2e-4 : 4e-4},
         {"share_of_dense", *arm == '\0' ? 1 : 0.5},
         {"curve",
          {{{"request_rate", 1}, {"tokens_per_second", 2000}, {"latency", 0.3}, {"sustained", true}},
           {{"request_rate", 2}, {"tokens_per_second", 2500}, {"latency", 2.5}, {"sustained", false}}}}});
  return r;
}

}  // namespace upcycle
