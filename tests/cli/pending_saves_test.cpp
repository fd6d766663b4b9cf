#include <fmt/core.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// checkpoint.max_pending: saves wait in memory for a disk that hangs (held_fsync.cpp), and training goes on until so
// many of them wait; what is saved in the end is what a run with one save at a time saves.
namespace upcycle {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

class PendingSaves : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
  const SmallRun small;
  const std::string hold = small.file("hold");

  json saves(int max_pending) const {
    json c = {{"train", {{"steps", 8}, {"micro_batch_size", 1}}},
              {"checkpoint", {{"every", 1}, {"keep", 0}, {"model_every", 4}, {"max_pending", max_pending}}}};
    if (ranks() == 2) c["parallel"] = {{"tp", 2}};
    return c;
  }
  // On a disk that does not end the sync of such files (a rank's weights) while the file `hold` is there.
  std::unique_ptr<Started> start(const std::string& config, const std::string& files = "model.rank") const {
    std::vector<std::string> words{UPCYCLE_BINARY};
    if (ranks() > 1) words = {UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks())};
    words.insert(words.end(), {"train", config});
    return std::make_unique<Started>(words,
                                     std::map<std::string, std::string>{{"UPCYCLE_BINARY", UPCYCLE_BINARY},
                                                                        {"OMP_NUM_THREADS", "1"},
                                                                        {"LD_PRELOAD", UPCYCLE_HELD_FSYNC},
                                                                        {"HOLD_FSYNC", hold},
                                                                        {"HOLD_FSYNC_OF", files},
                                                                        {"ASAN_OPTIONS", "verify_asan_link_order=0"}});
  }
  static std::size_t steps_of(const std::string& run) {
    return fs::exists(run + "/metrics.jsonl") ? step_lines(run).size() : 0;
  }
  // Waits for so many steps, and shows that no more follow.
  static void expect_to_stand_at(const std::string& run, std::size_t step) {
    const auto begin = Clock::now();
    while (steps_of(run) < step && Clock::now() - begin < 60s) std::this_thread::sleep_for(10ms);
    std::this_thread::sleep_for(1s);
    EXPECT_EQ(steps_of(run), step);
    EXPECT_FALSE(fs::exists(run + "/latest"));
  }
  static std::vector<std::string> folders(const std::string& run) {
    std::vector<std::string> names;
    for (const auto& e : fs::directory_iterator(run))
      if (e.is_directory()) names.push_back(e.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_P(PendingSaves, TrainingGoesOnWhileTheDiskHangs) {
  const std::string quiet = small.train("quiet", saves(1), ranks());
  int run_number = 0;
  // Also where it is rank 0's publishing that hangs.
  for (const auto& [most, files] : {std::pair{1, "model.rank"}, {3, "model.rank"}, {1, "manifest.json"}}) {
    SCOPED_TRACE(fmt::format("{} of {}", most, files));
    const std::string name = fmt::format("held_{}", ++run_number), config = small.write_config(name, saves(most)),
                      run = small.file(name);
    small.folder.write("hold", "");
    const auto running = start(config, files);
    // Of steps 1 to 3 the states wait; step 4 is trained, and its weights alone are one too many.
    expect_to_stand_at(run, static_cast<std::size_t>(most + 1));
    fs::remove(hold);
    const Outcome o = running->finish();
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_EQ(folders(run), folders(quiet));
    for (const std::string& folder : folders(quiet)) {
      const auto files = [&](const std::string& of) {
        return json::parse(text_of(of + "/" + folder + "/manifest.json"))["files"];
      };
      EXPECT_EQ(files(run), files(quiet)) << folder;
    }
    EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  }
}

// Told to stop meanwhile: what waits is published first, then the last state, and the same command goes on.
TEST_P(PendingSaves, AStopPublishesThemAll) {
  const std::string config = small.write_config("run", saves(3)), run = small.file("run");
  small.folder.write("hold", "");
  const auto running = start(config);
  expect_to_stand_at(run, 4);
  running->terminate();
  std::this_thread::sleep_for(200ms);
  fs::remove(hold);
  const Outcome o = running->finish();
  EXPECT_EQ(o.exit_code, 3) << o.err;
  EXPECT_NE(o.err.find("stopped by a signal at step 4, saved"), o.err.npos) << o.err;
  EXPECT_EQ(folders(run), (std::vector<std::string>{"model_00000004", "step_00000001", "step_00000002", "step_00000003",
                                                    "step_00000004"}));
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
  const auto again = start(config);
  EXPECT_EQ(again->finish().exit_code, 0);
  EXPECT_EQ(checkpoint_hashes(run), checkpoint_hashes(small.train("quiet", saves(1), ranks())));
}

INSTANTIATE_TEST_SUITE_P(Ranks, PendingSaves, testing::Values(1, 2),
                         [](const auto& info) { return "On" + std::to_string(info.param); });

}  // namespace
}  // namespace upcycle
