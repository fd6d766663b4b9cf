#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

std::string step(int number, double loss, const std::string& layers = "[]") {
  return fmt::format(R"({{"step":{},"tokens":{},"loss":{},"step_ms":250,"moe_layers":{}}})", number, 100 * number, loss,
                     layers) +
         "\n";
}
std::string evaluation(int number, double loss) {
  return fmt::format(R"({{"step":{},"tokens":{},"eval":"valid","eval_loss":{},"eval_tokens":9}})", number, 100 * number,
                     loss) +
         "\n";
}

struct Runs {
  TemporaryFolder folder;
  std::string add(const std::string& name, const std::string& metrics) const {
    std::filesystem::create_directory(folder.file(name));
    folder.write(name + "/metrics.jsonl", metrics);
    return folder.file(name);
  }
};

TEST(Plot, StepsDoneAgainCountOnceAndAHalfLineIsForgiven) {
  const Runs runs;
  const std::string a = runs.add("a", step(1, 4.5) + step(2, 4.25) + evaluation(2, 4.125) + step(2, 4.0) +
                                          evaluation(2, 3.5) + step(3, 3.75) + R"({"step":4,"tok)"),
                    b = runs.add("b", step(1, 3.0, R"([{"layer":1,"load_max_over_mean":1.5,"router_entropy":0.5}])"));
  const std::string page = runs.folder.file("plot.html");
  const Outcome outcome = run_upcycle({"plot", a, b, "--output=" + page});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, page + "\n");
  const std::string html = text_of(page);
  const auto has = [&](const std::string& what) { return html.find(what) != std::string::npos; };
  EXPECT_TRUE(has(R"(data-run="a" data-x="200" data-y="4")"));
  EXPECT_FALSE(has(R"(data-y="4.25")"));
  EXPECT_TRUE(has(R"(data-run="a" data-x="0.75" data-y="3.75")")) << "three steps of a quarter of a second";
  EXPECT_TRUE(has(R"(data-run="a" data-x="200" data-y="3.5")"));
  EXPECT_FALSE(has(R"(data-y="4.125")"));
  EXPECT_TRUE(has(R"(data-run="b layer 1" data-x="100" data-y="1.5")"));
  EXPECT_FALSE(has("training FLOPs")) << "there is no run.json";
  EXPECT_FALSE(has("http://") || has("https://"));
}

TEST(Plot, APictureOfLossAndLoad) {
  const SmallRun small;
  const std::string picture = small.file("plot.svg");
  const Outcome outcome = run_upcycle({"plot", small.train("run"), "--output", picture});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string svg = text_of(picture);
  EXPECT_TRUE(svg.starts_with("<svg ")) << svg.substr(0, 80);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("against tokens"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(svg.find("<figure"), std::string::npos) << "HTML in a picture";
}

TEST(Plot, ARunOfTheTrainer) {
  const SmallRun small;
  const std::string page = small.file("plot.html");
  const Outcome outcome = run_upcycle({"plot", small.train("run"), "--output", page});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string html = text_of(page);
  EXPECT_NE(html.find("training FLOPs"), std::string::npos);
  const nlohmann::json last = step_lines(small.file("run")).back();
  EXPECT_NE(html.find(fmt::format("data-y=\"{}\"", last["loss"].get<double>())), std::string::npos);
}

TEST(Plot, TokensOfEachExpertAsHeatMaps) {
  const SmallRun small;
  const std::string page = small.file("plot.html");
  const std::string run = small.train(
      "run", {{"model", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}}}, {"train", {{"steps", 2}}}});
  for (const nlohmann::json& step : step_lines(run))
    for (const nlohmann::json& layer : step["moe_layers"]) {
      const auto tokens = layer["tokens_per_expert"].get<std::vector<int>>();
      ASSERT_EQ(tokens.size(), 4u);
      EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), 0), 4 * 32 * 2) << "sequences, their length, k";
    }
  const Outcome outcome = run_upcycle({"plot", run, "--output", page});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string html = text_of(page);
  const nlohmann::json last = step_lines(run).back()["moe_layers"][1]["tokens_per_expert"];
  EXPECT_NE(html.find("data-chart=\"heat run\""), std::string::npos);
  EXPECT_NE(html.find("data-chart=\"heat run layer 1\""), std::string::npos);
  EXPECT_NE(html.find(fmt::format("data-x=\"3\" data-y=\"1\" data-value=\"{}\"", last[3].get<double>() / 256)),
            std::string::npos);
}

TEST(Plot, WhatIsNoRunIsRefused) {
  const Runs runs;
  const std::string good = runs.add("good", step(1, 4)), empty = runs.add("empty", ""),
                    other = runs.add("other", step(1, 4) + "{\"a\": 1}\n" + step(2, 3)),
                    folder = runs.folder.path.string();
  const std::string page = runs.folder.file("plot.html");
  const auto refused = [&](const std::string& run, const std::vector<std::string>& words) {
    expect_one_line(run_upcycle({"plot", good, run, "--output=" + page}), words);
    EXPECT_FALSE(std::filesystem::exists(page));
  };
  refused(folder + "/none", {"/none: found no folder"});
  refused(folder, {"found no metrics.jsonl"});
  refused(empty, {"empty/metrics.jsonl", "step"});
  refused(other, {"other/metrics.jsonl:2"});
  expect_one_line(run_upcycle({"plot", good, "--output=" + folder + "/none/plot.html"}), {"--output", "none"});
}

}  // namespace
}  // namespace upcycle
