#include <map>
#include <set>

#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

constexpr int steps = 2, layers = 2, microbatches = 2;  // of a rank of the runs below

// What one process sent to NVTX.
struct Record {
  std::map<std::string, int> count;                 // ranges per name
  std::map<std::string, std::set<std::string>> in;  // the names that were open around it
  std::size_t left_open = 0;
};

Record read_record(const std::string& path) {
  Record record;
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::map<std::string, std::vector<std::string>> open;  // one stack per thread
  for (std::string kind, thread, domain, name; file >> kind >> thread >> domain;) {
    EXPECT_EQ(domain, "upcycle");
    std::vector<std::string>& stack = open[thread];
    if (kind == ">") {
      std::getline(file >> std::ws, name);
      ++record.count[name];
      record.in[name].insert(stack.begin(), stack.end());
      stack.push_back(name);
    } else if (stack.empty()) {
      ADD_FAILURE() << "a pop without a push";
    } else {
      stack.pop_back();
    }
  }
  for (const auto& [thread, stack] : open) record.left_open += stack.size();
  return record;
}

void expect_training(const Record& r) {
  EXPECT_EQ(r.left_open, 0u);
  EXPECT_EQ(r.count.at("step"), steps);
  for (const char* layer : {"layer_forward", "layer_backward"}) {
    EXPECT_EQ(r.count.at(layer), steps * microbatches * layers);
    EXPECT_TRUE(r.in.at(layer).contains("step")) << layer;
  }
  EXPECT_TRUE(r.in.at("step").empty());
}

// The ranges whose name holds `op`, and whether some of them lie in a range `around`.
std::pair<int, bool> collectives(const Record& r, const std::string& op, const std::string& around) {
  std::pair<int, bool> found{0, false};
  for (const auto& [name, count] : r.count) {
    if (name.find(op) == std::string::npos) continue;
    found.first += count;
    found.second |= r.in.at(name).contains(around);
  }
  return found;
}

class Nvtx : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(setenv("NVTX_INJECTION64_PATH", UPCYCLE_NVTX_RECORDER, 1), 0);
    ASSERT_EQ(setenv("UPCYCLE_NVTX_RECORD", small.file("ranges").c_str(), 1), 0);
  }
  void TearDown() override {
    unsetenv("NVTX_INJECTION64_PATH");
    unsetenv("UPCYCLE_NVTX_RECORD");
  }
  SmallRun small;  // without validation, so that every layer_forward is of a step
  nlohmann::json changes = {{"train", {{"steps", steps}}}, {"data", {{"valid", nullptr}}}};
};

TEST_F(Nvtx, AStepAndItsLayersNest) {
  small.train("run", changes);
  expect_training(read_record(small.file("ranges.0")));
}

TEST_F(Nvtx, TheProfilersWindowIsARangeAroundItsSteps) {
  changes["train"]["profile_step_start"] = 2;
  changes["train"]["profile_step_end"] = 2;
  small.train("run", changes);
  const Record r = read_record(small.file("ranges.0"));
  EXPECT_EQ(r.left_open, 0u);
  EXPECT_EQ(r.count.at("profile"), 1);
  EXPECT_EQ(r.count.at("step"), steps);
  EXPECT_EQ(r.in.at("step"), std::set<std::string>{"profile"});  // of one of the two
  EXPECT_TRUE(r.in.at("profile").empty());
}

TEST_F(Nvtx, EveryRankSendsItsCollectives) {
  changes["parallel"] = {{"tp", 2}};
  changes["model"] = {{"num_local_experts", 4}, {"num_experts_per_tok", 2}};
  small.train("run", changes, 2);
  for (const char* rank : {"ranges.0", "ranges.1"}) {
    const Record r = read_record(small.file(rank));
    expect_training(r);
    // Sequence parallelism gathers rows into every layer and scatters its sums; both belong to a layer of a step.
    for (const char* op : {"all_gather", "reduce_scatter"}) {
      const auto [count, in_layer] = collectives(r, op, "layer_forward");
      EXPECT_GE(count, steps * microbatches * layers) << op;
      EXPECT_TRUE(in_layer) << op;
    }
    EXPECT_GE(collectives(r, "all_reduce", "step").first, steps);
  }
}

}  // namespace
}  // namespace upcycle
