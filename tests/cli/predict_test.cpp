#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

const std::string kLaunch = std::string(UPCYCLE_ROOT) + "/launch/";

Words predict(const std::string& config, const Words& more) {
  Words words{"bench", "predict", kLaunch + "configs/" + config, "--machine=" + kLaunch + "machines/h100.json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(Predict, ServesModelsThatNoMachineHereHolds) {
  const auto rate = [](const Words& more) {
    Words words{"--input-len=3500", "--output-len=300", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return json_of(predict("paper_serving_8b_moe.json", words))["request_throughput"].get<double>();
  };
  const double one = rate({"--parallel.tp=4", "--parallel.etp=4"});
  EXPECT_GT(rate({"--parallel.tp=8", "--parallel.etp=8"}), one);
  EXPECT_GT(rate({"--parallel.tp=4", "--parallel.etp=4", "--model.num_experts_per_tok=1"}), one);
  // Two replicas, which do not wait for each other's experts.
  EXPECT_NEAR(rate({"--parallel.tp=4", "--parallel.etp=4", "--world=8"}) / one, 2, 0.01);
}

TEST(Predict, CalibratesThisMachine) {
  const TemporaryFolder folder;
  const std::string machine = folder.file("machine.json"), config = kLaunch + "configs/tiny_moe.json";
  const Outcome calibrated = run_upcycle({"bench", "calibrate", config, "--output=" + machine, "--max-num-seqs=8"});
  EXPECT_EQ(calibrated.exit_code, 0) << calibrated.err;
  EXPECT_NE(calibrated.out.find("median error"), std::string::npos) << calibrated.out;
  EXPECT_GT(json_of({"bench", "predict", config, "--machine=" + machine, "--input-len=64", "--output-len=8",
                     "--json"})["request_throughput"],
            0);
  EXPECT_NE(one_line_error(run_upcycle({"bench", "calibrate", kLaunch + "configs/paper_436m_dense.json"}))
                .find("model.num_local_experts: found 0, expected an MoE"),
            std::string::npos);
  // Before anything is measured.
  EXPECT_NE(one_line_error(run_upcycle({"bench", "calibrate", config, "--check=none.json"})).find("none.json"),
            std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle({"bench", "calibrate", config, "--output=no/such/folder/machine.json"}))
                .find("--output: found no folder no/such/folder"),
            std::string::npos);
}

// Fewer distinct experts are read where most tokens go to the same ones.
TEST(Predict, TakesMeasuredRouting) {
  const TemporaryFolder folder;
  folder.write("even.json", "[5, 5, 5, 5, 5, 5, 5, 5]");
  folder.write("skewed.json", "[1000, 1000, 1, 1, 1, 1, 1, 1]");
  folder.write("none.json", "[1, 2]");
  folder.write("impossible.json", "[1000, 1, 1, 1, 1, 1, 1, 1]");
  const auto with = [&](const std::string& file) {
    Words words{"--input-len=16", "--output-len=64", "--max-num-seqs=4", "--json"};
    if (!file.empty()) words.push_back("--expert-tokens=" + folder.file(file));
    return predict("paper_serving_1.4b_moe.json", words);
  };
  const auto rate = [&](const std::string& file) { return json_of(with(file))["request_throughput"].get<double>(); };
  EXPECT_DOUBLE_EQ(rate("even.json"), rate(""));
  EXPECT_GT(rate("skewed.json"), 1.1 * rate("even.json"));
  EXPECT_NE(
      one_line_error(run_upcycle(with("none.json"))).find("expected a list of the tokens of each of the model's 8"),
      std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle(with("impossible.json"))).find("expected at most one in 2 of all"),
            std::string::npos);
}

TEST(Predict, BadInputIsOneLine) {
  const auto error = [](const Words& words) { return one_line_error(run_upcycle(words)); };
  const Words sizes{"--input-len=3500", "--output-len=300"};
  EXPECT_NE(error(predict("paper_serving_436m_moe.json", {"--input-len=4000", "--output-len=300"}))
                .find("a prompt of 4000 tokens and max_tokens 300, expected at most 4096 together"),
            std::string::npos);
  EXPECT_NE(error(predict("paper_serving_436m_moe.json", {"--input-len=0", "--output-len=1"})).find("no tokens"),
            std::string::npos);
  EXPECT_NE(error(predict("paper_serving_436m_moe.json", {"--input-len=1", "--output-len=0"})).find("max_tokens is 0"),
            std::string::npos);
  EXPECT_NE(error(predict("paper_serving_436m_moe.json", {"--input-len=9", "--output-len=9", "--world=4294967297"}))
                .find("--world: found 4294967297, expected 0 to"),
            std::string::npos);
  EXPECT_NE(error(predict("paper_serving_8b_moe.json", sizes)).find("use more ranks"), std::string::npos);
  EXPECT_NE(error(predict("paper_serving_8b_dense.json", {"--input-len=9", "--output-len=9", "--policy=fast"}))
                .find("--policy: found 'fast', expected mixed or prefill_first"),
            std::string::npos);
  EXPECT_NE(error({"bench", "predict", kLaunch + "configs/paper_serving_8b_dense.json", "--machine=none.json",
                   "--input-len=9", "--output-len=9"})
                .find("none.json: can not be read"),
            std::string::npos);
}

}  // namespace
}  // namespace upcycle
