#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <set>

#include "tests/cli/small_run.h"

// kill -9 at every call that changes a file of the run folder, and at random instants: the same command goes on, and
// what it saves is the uninterrupted run's, bit for bit.
namespace upcycle {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSteps = 3;

// A call of a run that changes a file.
struct Call {
  int rank = 0, number = 0;  // the rank's n-th
  std::string operation, path;
};

struct Kills {
  const SmallRun small;
  const int ranks;
  std::map<std::string, json> steps;  // of the uninterrupted run: files with their hashes, place in the data
  std::map<std::int64_t, double> losses;
  std::vector<Call> calls;
  std::mt19937 random{20264};
  std::int64_t microseconds = 0;  // that a run takes
  int at_points = 0, at_instants = 0, resumed = 0, runs = 0;

  explicit Kills(int ranks_) : ranks(ranks_) {
    const std::string run = small.train("whole", changes(0), ranks);
    steps = saved_steps(run);
    losses = losses_of(run);
    EXPECT_EQ(steps.size(), std::size_t{kSteps});
    EXPECT_EQ(losses.size(), std::size_t{kSteps});
    const std::string log = small.file("calls");
    config = small.write_config("run", changes(1));
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(start("fault=none log=" + log).exit_code, 0);
    microseconds =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
    std::map<int, int> counts;
    std::ifstream in(log);
    for (Call c; in >> c.rank >> c.operation && std::getline(in >> std::ws, c.path);) {
      c.number = ++counts[c.rank];
      calls.push_back(c);
    }
    EXPECT_EQ(counts.size(), static_cast<std::size_t>(ranks));
  }

  std::string config;
  std::string run() const { return small.file("run"); }

  json changes(int keep, int max_pending = 1) const {
    json c = {{"train", {{"steps", kSteps}, {"micro_batch_size", 1}}},
              {"model", {{"num_local_experts", 4}}},
              {"checkpoint", {{"every", 1}, {"keep", keep}, {"model_every", 2}, {"max_pending", max_pending}}}};
    if (ranks == 4) c["parallel"] = {{"tp", 2}, {"ep", 2}};
    return c;
  }

  Outcome start(const std::string& fault) {
    std::vector<std::string> words{UPCYCLE_BINARY};
    if (ranks > 1) words = {UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks)};
    words.insert(words.end(), {"train", config});
    std::map<std::string, std::string> environment{{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}};
    if (!fault.empty()) {
      environment["LD_PRELOAD"] = UPCYCLE_FAULTS;
      environment["UPCYCLE_FAULT"] = fault + " path=" + run();
    }
    return run_program(words, environment);
  }

  static std::map<std::string, json> saved_steps(const std::string& run) {
    std::map<std::string, json> found;
    for (const auto& entry : fs::directory_iterator(run)) {
      const std::string name = entry.path().filename();
      if (!name.starts_with("step_") || name.find('.') != name.npos) continue;
      const json m = json::parse(std::ifstream(entry.path() / "manifest.json"), nullptr, false);
      EXPECT_TRUE(m.is_object()) << entry.path();
      if (m.is_object())
        found[name] = {{"files", m["files"]}, {"samples", m["consumed_samples"]}, {"tokens", m["tokens"]}};
    }
    return found;
  }
  static std::map<std::int64_t, double> losses_of(const std::string& run) {
    std::map<std::int64_t, double> found;
    for (const json& line : step_lines(run)) found[line["step"]] = line["loss"];
    return found;
  }

  // Whenever it was killed: what is published is the uninterrupted run's, and `latest` names it.
  void expect_whole_steps(const std::string& after) {
    if (!fs::exists(run())) return;
    for (const auto& [name, step] : saved_steps(run())) EXPECT_EQ(step, steps.at(name)) << name << after;
    std::string latest;
    std::getline(std::ifstream(run() + "/latest"), latest);
    EXPECT_TRUE(latest.empty() || fs::exists(run() + "/" + latest + "/manifest.json")) << latest << after;
  }

  // The run has ended.
  void expect_the_end(const Outcome& o, const std::string& after) {
    ASSERT_EQ(o.exit_code, 0) << o.err << after;
    const auto saved = saved_steps(run());
    ASSERT_EQ(saved.size(), 1u) << after;
    EXPECT_EQ(*saved.begin(), *steps.rbegin()) << after;
    EXPECT_EQ(losses_of(run()), losses) << after;
    const std::string last = saved.begin()->first;
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run())) names.insert(entry.path().filename());
    const std::set<std::string> expected{".lock", "latest", "metrics.jsonl", "model_00000002", "run.json", last};
    EXPECT_EQ(names, expected) << after;
    EXPECT_EQ(run_upcycle({"inspect", run(), "--verify"}).exit_code, 0) << after;
    EXPECT_EQ(run_upcycle({"inspect", run() + "/model_00000002", "--verify"}).exit_code, 0) << after;
  }

  int unproven = 0;  // kills since the last end
  std::string history;

  void end_the_run(const Outcome& o) {
    expect_the_end(o, history);
    resumed += unproven;
    unproven = 0;
    ++runs;
    config = small.write_config("run", changes(1, 1 + runs % 3));  // with one save under way, or several
    history.clear();
    fs::remove_all(run());
  }

  // Starts the command with this kill: on what kills before it left, or, where it ends before the kill, anew.
  void kill(const std::string& fault, bool at_call) {
    for (int attempt = 0; attempt < 2; ++attempt) {
      const bool anew = !fs::exists(run());
      const auto begin = std::chrono::steady_clock::now();
      const Outcome o = start(fault);
      if (o.exit_code != 0) {
        history += "\nafter " + fault;
        EXPECT_TRUE(o.exit_code == 128 + 9 || ranks > 1) << o.exit_code << o.err << history;
        EXPECT_EQ(o.err.find("damaged"), o.err.npos) << o.err << history;
        ++unproven;
        ++(at_call ? at_points : at_instants);
        expect_whole_steps(history);
        return;
      }
      // It was faster than the kill, as where the machine was busier before: the next ones come in time.
      const auto took = std::chrono::steady_clock::now() - begin;
      if (anew)
        microseconds =
            std::min(microseconds, std::int64_t{std::chrono::duration_cast<std::chrono::microseconds>(took).count()});
      end_the_run(o);
      if (anew || testing::Test::HasFailure()) break;
    }
    // Which rank makes a folder, and so how many calls it has, is not always the same.
    EXPECT_FALSE(at_call && ranks == 1) << fault << " did not come";
  }

  // `count` kills: two thirds at calls, spread over all of them (of those that write bytes, an eighth), the others at
  // random instants.
  void sweep(int count) {
    fs::remove_all(run());
    std::vector<Call> points;
    int writes = 0;
    for (const Call& c : calls)
      if (c.operation != "write" || writes++ % 8 == 0) points.push_back(c);
    const auto n = static_cast<std::size_t>(count) * 2 / 3;
    for (std::size_t i = 0; i < n && !testing::Test::HasFailure(); ++i) {
      const Call& c = points[i * points.size() / n];
      const char* how = c.operation == "write" ? "kill_half" : random() % 2 == 0 ? "kill_before" : "kill_after";
      kill(fmt::format("rank={} call={} fault={}", c.rank, c.number, how), true);
    }
    for (int i = 0; i < 40 * count && at_points + at_instants < count && !testing::Test::HasFailure(); ++i) {
      const std::string one = fmt::format("rank={} ", random() % static_cast<unsigned>(ranks));
      kill(fmt::format("{}call=1 fault=kill_later:{}", ranks > 1 && random() % 3 == 0 ? "" : one,
                       random() % static_cast<unsigned>(microseconds)),
           false);
    }
    if (fs::exists(run())) end_the_run(start(""));
    EXPECT_EQ(resumed, count);
    EXPECT_EQ(resumed, at_points + at_instants);
    std::printf(
        "%d kills on %d rank(s), %d at %zu calls that change a file, %d at random instants: %d resumed, %d runs ended "
        "bit for bit as the uninterrupted one\n",
        at_points + at_instants, ranks, at_points, points.size(), at_instants, resumed, runs);
  }
};

int kills(int ranks) {
  const char* given = std::getenv("UPCYCLE_KILLS");
  const int all = given != nullptr ? std::atoi(given) : 9;
  return ranks == 1 ? all * 2 / 3 : all - all * 2 / 3;
}

TEST(Kills, OfOneRank) { Kills(1).sweep(kills(1)); }
TEST(Kills, OfFourRanks) { Kills(4).sweep(kills(4)); }

}  // namespace
}  // namespace upcycle
