#include "launch/bench/measure_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "launch/bench/serve_plan.h"
#include "launch/bench/serve_report.h"
#include "tests/launch/fake_server.h"

namespace upcycle {
namespace {

const ServedModel kModel{"a model", 50, 1000, 8, 0, true, {}};

LoadOptions lengths(std::int64_t input, std::int64_t output) {
  LoadOptions o;
  o.input_len = input;
  o.output_len = output;
  o.batches = "1,8,16";
  return o;
}

// The slower server takes twice as long for everything.
struct Pair {
  BenchPlan plan = plan_of(lengths(20, 10), 1000, 2);
  ServeReport report;
  explicit Pair(const Predict& slow = {}, const Predict& fast = {}) {
    plan.workload.vocab_size = 50;
    FakeServer dense(8, 0.01), moe(8, 0.02);
    ServedModel model = kModel;
    report.baseline = measure_server(dense, model, plan);
    model.moe_layers = 2;
    report.model = measure_server(moe, model, plan);
    report.slowdown = compare(report.model, *report.baseline, plan.workload, slow, fast);
    report.plan = plan;
  }
};

TEST(MeasureServer, TheMoeBesideItsBase) {
  const Pair p{[] { return std::make_unique<FakeServer>(8, 0.02); },
               [] { return std::make_unique<FakeServer>(8, 0.01); }};
  const Measured &dense = *p.report.baseline, &moe = p.report.model;
  EXPECT_NEAR(dense.capacity.request_throughput, 80, 4);
  EXPECT_NEAR(moe.capacity.request_throughput, 40, 2);
  EXPECT_EQ(dense.options.rate_step, moe.options.rate_step);
  EXPECT_NEAR(dense.sweep.max_rate, 72, 16);
  EXPECT_NEAR(moe.sweep.max_rate, 36, 10);
  ASSERT_EQ(dense.offline.size(), 2);  // 8 run at once: no batch of 16
  EXPECT_EQ(std::count_if(dense.notes.begin(), dense.notes.end(),
                          [](auto& n) { return n.starts_with("offline: batches above"); }),
            1);
  EXPECT_NEAR(dense.offline[1].S_TG() / moe.offline[1].S_TG(), 2, 1e-6);
  ASSERT_GE(p.report.slowdown.at_rate.size(), 2);
  const EqualRate& lowest = p.report.slowdown.at_rate[0];
  EXPECT_NEAR(lowest.measured.value(), 2, 0.2);
  EXPECT_TRUE(lowest.model_sustained && lowest.baseline_sustained);
  for (const EqualRate& r : p.report.slowdown.at_rate) {
    ASSERT_TRUE(r.predicted.has_value());
    EXPECT_NEAR(*r.predicted / r.measured.value(), 1, 0.05);
  }
}

TEST(MeasureServer, WhatIsReportedHasItsKeys) {
  const auto j = to_json(Pair().report);
  for (const char* who : {"model", "baseline"}) {
    const auto& m = j[who];
    ASSERT_FALSE(m["offline"].empty());
    for (const auto& row : m["offline"])
      for (const char* key : {"batch", "prefill_tokens_per_s", "decode_tokens_per_s"})
        EXPECT_TRUE(row[key].is_number()) << key;
    ASSERT_FALSE(m["load"].empty());
    for (const auto& entry : m["load"]) {
      for (const char* key : {"rate",
                              "tokens_per_s",
                              "completed",
                              "queue_max",
                              "failed",
                              "duration",
                              "request_throughput",
                              "output_throughput",
                              "total_token_throughput",
                              "total_input_tokens",
                              "total_output_tokens",
                              "mean_ttft_ms",
                              "median_ttft_ms",
                              "p99_ttft_ms",
                              "std_ttft_ms",
                              "mean_tpot_ms",
                              "median_tpot_ms",
                              "p99_tpot_ms",
                              "mean_itl_ms",
                              "median_itl_ms",
                              "p99_itl_ms",
                              "mean_e2el_ms",
                              "median_e2el_ms",
                              "p99_e2el_ms",
                              "generator_cpu_share",
                              "weight_bytes_per_token"})
        EXPECT_TRUE(entry[key].is_number()) << key;
      for (const char* key : {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"})
        for (const char* p : {"p50", "p90", "p99"}) EXPECT_TRUE(entry[key][p].is_number()) << key;
      EXPECT_EQ(entry.contains("experts_per_step_and_layer"), who == std::string("model"));
    }
    EXPECT_TRUE(m["max_rate"].is_number());
  }
  ASSERT_FALSE(j["slowdown"].empty());
  for (const auto& s : j["slowdown"]) {
    EXPECT_TRUE(s["rate"].is_number() && s["measured"].is_number());
    EXPECT_TRUE(s.contains("predicted"));
    for (const char* who : {"model", "baseline"}) EXPECT_TRUE(s["sustained"][who].is_boolean());
  }
  EXPECT_EQ(j["setup"]["predicted"], false);
  EXPECT_EQ(nlohmann::json::parse(j.dump()).size(), j.size());  // no number that JSON does not know
}

// A sweep that ended early has no highest rate, and so has the comparison.
TEST(ServeReport, HighestRatesAreComparedWhereBothAreFound) {
  ServeReport report;
  report.baseline.emplace();
  report.model.sweep.max_rate = report.baseline->sweep.max_rate = 2;
  EXPECT_EQ(to_json(report)["slowdown_at_max_rate"], 1.0);
  EXPECT_TRUE(to_json(report)["baseline"]["sweep_ended"].is_null());
  report.baseline->sweep.ended = "time";
  EXPECT_TRUE(to_json(report)["slowdown_at_max_rate"].is_null());
  EXPECT_EQ(to_json(report)["baseline"]["sweep_ended"], "time");
}

TEST(MeasureServer, AQuickRunShortensItsLengthsAndKeepsItsTime) {
  LoadOptions o;
  o.seconds = 60;
  BenchPlan plan = plan_of(o, 4096, 1);
  plan.workload.vocab_size = 50;
  EXPECT_EQ(plan.workload.input_len, 256);
  EXPECT_EQ(plan.workload.output_len, 32);
  FakeServer server(8, 0.05);
  const double begin = server.now();
  const Measured m = measure_server(server, kModel, plan);
  EXPECT_LT(server.now() - begin, 60);
  EXPECT_LT(plan.workload.output_len, 32);
  EXPECT_FALSE(m.notes.empty());
  EXPECT_GT(m.sweep.max_rate, 0);

  LoadOptions thorough;
  thorough.thorough = true;
  const BenchPlan paper = plan_of(thorough, 131072, 1);
  EXPECT_EQ(paper.workload.input_len, 3500);
  EXPECT_EQ(paper.workload.output_len, 300);
}

TEST(MeasureServer, NothingThatCompletesIsRefused) {
  BenchPlan plan = plan_of(lengths(20, 10), 1000, 1);
  plan.workload.vocab_size = 50;
  FakeServer server(8, 0.01);
  server.longest = 5;
  EXPECT_THROW(measure_server(server, kModel, plan), InputError);
}

TEST(ServeReport, ThePictureHasItsCurves) {
  ServeReport report = Pair().report;
  report.model.model.name = "<moe> & more";
  const std::string svg = svg_of(report);
  EXPECT_TRUE(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n"));
  for (const char* part : {"prefers-color-scheme: dark", "mean latency of a whole request", "s</text>", "tokens/s",
                           "&lt;moe&gt; &amp; more"})
    EXPECT_NE(svg.find(part), svg.npos) << part;
  EXPECT_EQ(svg.find("nan"), svg.npos);
  EXPECT_NE(svg_of(ServeReport{}).find("</svg>"), svg.npos);
}

}  // namespace
}  // namespace upcycle
