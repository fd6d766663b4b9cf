#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// A run that is told to stop and has no time for it: its save takes long here, because no fsync ends. It ends at once
// and leaves the checkpoint before that save as it was, with nothing in the way of the run that goes on.
namespace upcycle {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class Stop : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
  const SmallRun small;
  const std::string run = small.file("run"),
                    config =
                        small.write_config("run", {{"train", {{"schedule", "constant"}, {"micro_batch_size", 1}}}});

  std::vector<std::string> words(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> w{UPCYCLE_BINARY};
    if (ranks() > 1) w = {UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks())};
    w.insert(w.end(), {"train", config});
    w.insert(w.end(), more.begin(), more.end());
    return w;
  }
  std::map<std::string, std::string> environment(bool held) const {
    std::map<std::string, std::string> e{{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}};
    if (held)
      e.insert({{"LD_PRELOAD", UPCYCLE_HELD_FSYNC},
                {"HOLD_FSYNC", small.file("hold")},
                {"ASAN_OPTIONS", "verify_asan_link_order=0"}});
    return e;
  }
  std::string newest() const {
    std::string name;
    std::getline(std::ifstream(run + "/latest"), name);
    return name;
  }
  bool saving() const {
    for (const auto& entry : fs::directory_iterator(run))
      if (entry.path().extension() == ".tmp" && fs::is_directory(entry)) return true;
    return false;
  }
  // Two steps that are saved; then more, told to stop once it trains; `then` once its save is under way.
  void ends_without_the_save(const std::vector<std::string>& more, const std::function<void(const Started&)>& then,
                             const std::string& said) {
    ASSERT_EQ(run_program(words({"--train.steps=2"}), environment(false)).exit_code, 0);
    const auto hashes = checkpoint_hashes(run);
    std::vector<std::string> on{"--train.steps=1000000"};
    on.insert(on.end(), more.begin(), more.end());
    Started running(words(on), environment(true));
    const auto begin = Clock::now();
    while (step_lines(run).size() < 10 && Clock::now() - begin < 60s) std::this_thread::sleep_for(10ms);
    small.folder.write("hold", "");
    running.terminate();
    while (!saving() && Clock::now() - begin < 60s) std::this_thread::sleep_for(10ms);
    ASSERT_TRUE(saving());
    const auto asked = Clock::now();
    then(running);
    const Outcome stopped = running.finish();
    EXPECT_LT(Clock::now() - asked, 15s) << "it waited for the save";
    EXPECT_EQ(stopped.exit_code, 3) << stopped.err;
    EXPECT_NE(stopped.err.find(said), stopped.err.npos) << stopped.err;
    EXPECT_EQ(newest(), "step_00000002");
    EXPECT_EQ(checkpoint_hashes(run), hashes);
    EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
    // On from there, to where a run that nothing stopped comes.
    const Outcome resumed = run_program(words({"--train.steps=5"}), environment(false));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_NE(resumed.err.find("step_00000002 at step 2"), resumed.err.npos) << resumed.err;
    EXPECT_FALSE(saving());
    const std::string straight =
        small.write_config("straight", {{"train", {{"schedule", "constant"}, {"micro_batch_size", 1}, {"steps", 5}}}});
    std::vector<std::string> w = words();
    w.back() = straight;
    ASSERT_EQ(run_program(w, environment(false)).exit_code, 0);
    EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(small.file("straight")));
  }
};

TEST_P(Stop, ASecondSignalEndsItAtOnce) {
  ends_without_the_save(
      {},
      [](const Started& running) {
        std::this_thread::sleep_for(1500ms);
        running.terminate();
      },
      ranks() == 1 ? "upcycle: a second signal, ended without saving" : "a second SIGTERM");
}

TEST_P(Stop, ADeadlineEndsIt) {
  ends_without_the_save(
      {"--checkpoint.stop_deadline_s=3"}, [](const Started&) {},
      "upcycle: the save took longer than checkpoint.stop_deadline_s, ended without saving");
}

// A save that has the time: neither the deadline nor a signal that is delivered twice cuts it off.
TEST_P(Stop, ASaveInTimeIsPublished) {
  Started running(words({"--train.steps=1000000", "--checkpoint.stop_deadline_s=60"}), environment(false));
  const auto begin = Clock::now();
  while ((!fs::exists(run + "/metrics.jsonl") || step_lines(run).size() < 10) && Clock::now() - begin < 60s)
    std::this_thread::sleep_for(10ms);
  running.terminate();
  std::this_thread::sleep_for(50ms);
  running.terminate();
  const Outcome stopped = running.finish();
  EXPECT_EQ(stopped.exit_code, 3) << stopped.err;
  EXPECT_EQ(newest(), fmt::format("step_{:08}", step_lines(run).back()["step"].get<std::int64_t>()));
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Stop, testing::Values(1, 4), testing::PrintToStringParamName());

}  // namespace
}  // namespace upcycle
