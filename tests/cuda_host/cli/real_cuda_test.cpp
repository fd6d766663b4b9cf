#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// The program that is linked with CUDA's own libraries, on a machine without a GPU.
namespace upcycle {
namespace {

using Words = std::vector<std::string>;

TEST(RealCuda, SaysThatThereIsNoGpu) {
  if (std::filesystem::exists("/dev/nvidiactl")) GTEST_SKIP() << "this machine has a GPU: launch/gpu_check.sh";
  const SmallRun small;
  const std::string config = small.write_config("run", {{"device", "cuda"}});
  const auto before = files_below(small.folder.path.string());
  for (const Words& words : {Words{"train", config}, Words{"bench", "step", config}, Words{"bench", "ops", config}})
    expect_one_line(run_upcycle(words), {"device: found cuda", "there is no GPU to compute on", "--device=cpu"});
  for (const Words& words : {Words{"train", config}, Words{"bench", "step", config}})
    expect_one_line(run_ranks(2, words), {"device: found cuda", "there is no GPU to compute on", "--device=cpu"});
  expect_one_line(run_upcycle({"eval", small.file("none"), "--data=" + small.file("valid"), "--device=cuda"}),
                  {"command line: device: found cuda", "there is no GPU to compute on"});
  EXPECT_EQ(files_below(small.folder.path.string()), before);
}

}  // namespace
}  // namespace upcycle
