#include "launch/run_curves.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "launch/study/run_metrics.h"
#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

TEST(RunMetrics, AStepThatWasTrainedAgainCountsAsItsLastLineSays) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "upcycle_report_curves";
  std::filesystem::create_directories(folder);
  std::ofstream out(folder / "metrics.jsonl");
  const auto step = [&](int number, double loss) {
    out << Json{{"step", number},
                {"tokens", 10 * number},
                {"loss", loss},
                {"moe_layers", {{{"layer", 1}, {"load_max_over_mean", 2.0 * loss}, {"router_entropy", 3.0 * loss}}}}}
               .dump()
        << "\n";
  };
  step(1, 5);
  step(2, 9);
  out << R"({"step":2,"tokens":20,"eval":"new","eval_loss":7.5,"eval_tokens":5})"
      << "\n";
  step(3, 9);
  step(2, 4);
  out << R"({"step":2,"tokens":20,"eval":"new","eval_loss":4.5,"eval_tokens":5})"
      << "\n";
  step(3, 3);
  out << R"({"step":4,"tokens":40,"loss":null})"
      << "\n"
      << R"({"step":5,"tok)";
  out.close();
  const CurvesJson c = curves_json(folder.string(), {{"old", ""}, {"new", ""}});
  EXPECT_EQ(c.curve.dump(), R"({"tokens":[10.0,20.0,30.0],"loss":[5.0,4.0,3.0]})");
  EXPECT_EQ(c.held_out.dump(), R"({"new":{"tokens":[20.0],"loss":[4.5]}})");
  EXPECT_EQ(
      c.load.dump(),
      R"({"tokens":[10.0,20.0,30.0],"layers":[1],"max_over_mean":[[10.0],[8.0],[6.0]],"entropy":[[15.0],[12.0],[9.0]]})");
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(curves_json(folder.string(), {}).load.is_null());
}

TEST(RunMetrics, LongCurvesBecomeMeansOfEqualPieces) {
  std::vector<std::vector<double>> rows;
  for (int i = 0; i < 1000; ++i) rows.push_back({static_cast<double>(i)});
  const auto thin = thinned(rows, 200);
  ASSERT_EQ(thin.size(), 200u);
  EXPECT_EQ(thin[0][0], 2);
  EXPECT_EQ(thin[199][0], 997);
  EXPECT_EQ(thinned(rows, 2000).size(), 1000u);
  EXPECT_TRUE(thinned({}, 5).empty());
}

TEST(RunEnd, OfARepeatedStepTheLastLineCounts) {
  const TemporaryFolder folder;
  std::string text;
  for (int step = 1; step <= 60; ++step)
    text += Json{{"step", step}, {"tokens", step}, {"loss", 100}, {"tokens_per_s", step}}.dump() + "\n";
  for (int step = 11; step <= 60; ++step)
    text += Json{{"step", step}, {"tokens", step}, {"loss", step}, {"tokens_per_s", step}}.dump() + "\n";
  text += R"({"step": 60, "tokens": 60, "eval": "new", "eval_loss": 5})"
          "\n"
          R"({"step": 61, "lo)";  // cut short by a death
  folder.write("metrics.jsonl", text);
  const RunEnd end = read_run_end(folder.path, 50);
  EXPECT_DOUBLE_EQ(end.loss, 35.5);
  EXPECT_DOUBLE_EQ(end.tokens_per_s, 31);
}

// A run's folder may be anyone's.
TEST(RunEnd, LinesThatCanNotBeOursAreRefused) {
  const TemporaryFolder folder;
  const std::string good = R"({"step": 1, "tokens": 8, "loss": 3})"
                           "\n";
  for (const std::string& line :
       {std::string(R"({"step": 18446744073709551615, "tokens": 8, "eval": "x", "eval_loss": 5})"),
        std::string(R"({"step": -1, "tokens": 8, "loss": 3})"),
        std::string(R"({"step": 1, "tokens": 8, "eval": "a\u001b[2J", "eval_loss": 5})"),
        std::string(R"({"step": 1, "tokens": 8, "eval": ["x"], "eval_loss": 5})"),
        R"({"step": 1, "tokens": 8, "loss": 3, "x": )" + std::string(100000, '[')}) {
    folder.write("metrics.jsonl", good + line + "\n" + good);
    expect_input_error([&] { (void)read_run_curves(folder.path, 5); }, {"metrics.jsonl:2: found", "remove it"});
  }
  folder.write("metrics.jsonl", std::string((std::size_t{64} << 20) + 1, 'x'));
  expect_input_error([&] { (void)read_run_curves(folder.path, 5); },
                     {"metrics.jsonl:1: found more than 67108864 bytes"});
  folder.write("metrics.jsonl", good);
  ASSERT_EQ(::mkfifo(folder.file("run.json").c_str(), 0600), 0);
  expect_input_error([&] { (void)read_run_curves(folder.path, 5); }, {"run.json", "a special file"});
}

}  // namespace
}  // namespace upcycle
