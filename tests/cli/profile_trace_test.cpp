#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// The Chrome trace of train.profile_trace.
namespace upcycle {
namespace {

using nlohmann::json;

struct Trace {
  std::map<int, std::vector<json>> spans;       // of each rank
  std::map<int, std::set<std::string>> titles;  // of its process and rows

  explicit Trace(const std::string& file) {
    const json all = json::parse(std::ifstream(file));
    EXPECT_EQ(all["displayTimeUnit"], "ms");
    for (const json& event : all["traceEvents"]) {
      const int rank = event["pid"];
      if (event["ph"] == "X")
        spans[rank].push_back(event);
      else if (event["name"] != "process_sort_index")
        titles[rank].insert(event["args"]["name"].get<std::string>());
    }
  }
  std::vector<json> named(int rank, const std::string& name) const {
    std::vector<json> found;
    for (const json& span : spans.at(rank))
      if (span["name"] == name) found.push_back(span);
    return found;
  }
};

double begin_of(const json& span) { return span["ts"]; }
double end_of(const json& span) { return span["ts"].get<double>() + span["dur"].get<double>(); }

TEST(ProfileTrace, HasTheOpsOfTheWindowWithTheFlopsOfThePlan) {
  const SmallRun small;
  const std::string file = small.file("trace.json"), config = small.write_config("run");
  const Outcome o = run_upcycle({"train", config, "--train.steps=3", "--train.profile_step_start=2",
                                 "--train.profile_step_end=3", "--train.profile_trace=" + file});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("profiler: records steps 2 to 3 to " + file), std::string::npos) << o.err;
  const Trace trace(file);
  const std::vector<json> steps = trace.named(0, "step");
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(trace.named(0, "layer_forward").size(), 2u * 2 * 2) << "steps, microbatches, layers";
  double flops = 0;
  for (const json& span : trace.spans.at(0)) {
    EXPECT_EQ(span["tid"], steps[0]["tid"]);
    EXPECT_GE(span["dur"].get<double>(), 0);
    if (!span.contains("args")) continue;
    EXPECT_GT(span["args"]["bytes"].get<double>(), 0) << span;
    flops += span["args"]["flops"].get<double>();
    const bool inside = (begin_of(steps[0]) <= begin_of(span) && end_of(span) <= end_of(steps[0]) + 0.002) ||
                        (begin_of(steps[1]) <= begin_of(span) && end_of(span) <= end_of(steps[1]) + 0.002);
    EXPECT_TRUE(inside || span["name"] == "world max_of") << span;
  }
  EXPECT_DOUBLE_EQ(flops, 2 * json_of({"plan", config, "--json"})["flops"].get<double>());
  for (const char* op : {"matmul", "attention_forward", "attention_backward", "rms_norm_forward", "linear_xent_stats",
                         "swiglu_backward", "embedding_forward", "adamw"})
    EXPECT_FALSE(trace.named(0, op).empty()) << op;
  // Watching changes nothing.
  const std::string plain = small.train("plain", {{"train", {{"steps", 3}}}});
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(step_lines(small.file("run"))[i]["loss"], step_lines(plain)[i]["loss"]) << i;
}

TEST(ProfileTrace, RanksAreOneFile) {
  const SmallRun small;
  const std::string file = small.file("trace.json");
  small.train("run",
              {{"model", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}}},
               {"parallel", {{"ep", 2}}},
               {"train", {{"steps", 2}, {"profile_step_start", 2}, {"profile_step_end", 2}, {"profile_trace", file}}}},
              2);
  const Trace trace(file);
  ASSERT_EQ(trace.spans.size(), 2u);
  for (const int rank : {0, 1}) {
    EXPECT_EQ(trace.titles.at(rank).begin()->substr(0, 4), "host");
    EXPECT_EQ(trace.titles.at(rank).rbegin()->substr(0, 10), "rank " + std::to_string(rank) + " on ");
    ASSERT_EQ(trace.named(rank, "step").size(), 1u);
    EXPECT_FALSE(trace.named(rank, "grouped_matmul").empty());
    const std::vector<json> sent = trace.named(rank, "ep all_to_all_v");
    ASSERT_FALSE(sent.empty());
    EXPECT_GT(sent.back()["args"]["bytes"].get<double>(), 0);
  }
  // One clock: steps begin and end in collectives.
  const json a = trace.named(0, "step")[0], b = trace.named(1, "step")[0];
  EXPECT_LT(begin_of(a), end_of(b));
  EXPECT_LT(begin_of(b), end_of(a));
  EXPECT_FALSE(std::filesystem::exists(file + ".tmp"));
}

TEST(ProfileTrace, NeedsAWindowAndAFolder) {
  const SmallRun small;
  const std::string config = small.write_config("run"), window = "--train.profile_step_start=1",
                    end = "--train.profile_step_end=1";
  expect_one_line(run_upcycle({"train", config, "--train.profile_trace=t.json"}), {"train.profile_trace", "_start"});
  expect_one_line(run_upcycle({"train", config, window, end, "--train.profile_trace=" + small.file("none/trace.json")}),
                  {"train.profile_trace", "none/trace.json", "folder"});
  EXPECT_FALSE(std::filesystem::exists(small.file("run")));
}

}  // namespace
}  // namespace upcycle
