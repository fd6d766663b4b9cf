#include <algorithm>
#include <filesystem>

#include "tests/cli/small_run.h"

// launch/profile_nsys.sh and profile_ncu.sh with stand-ins for the two tools: they write down how they were called and
// run the command.
namespace upcycle {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

struct ProfileScripts : ::testing::Test {
  SmallRun small;
  const std::string config = small.write_config("run", {{"train", {{"steps", 3}}}, {"checkpoint", {{"dir", nullptr}}}});
  const std::string record = small.file("called"), folder = small.file("profile");

  void SetUp() override {
    for (const char* tool : {"nsys", "ncu"}) {
      const std::string file = small.folder.write(
          tool,
          "#!/bin/bash\n{ echo \"" + std::string(tool) +
              R"( $*"; echo "register only: $NSYS_NVTX_PROFILER_REGISTER_ONLY"; } >>"$RECORD.${OMPI_COMM_WORLD_RANK:-0}"
while [[ $1 != /* ]]; do shift; done
exec "$@"
)");
      fs::permissions(file, fs::perms::owner_all);
    }
  }
  Outcome run(const std::string& script, const Words& arguments, const std::string& binary = UPCYCLE_EMULATED,
              bool tools = true) const {
    Words words{UPCYCLE_ROOT "/launch/" + script};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::string path = (tools ? small.folder.path.string() + ":" : "") + "/usr/bin:/bin";
    return run_program(words, {{"PATH", path},
                               {"RECORD", record},
                               {"UPCYCLE_BINARY", binary},
                               {"UPCYCLE_EMUL_SAY_PROFILER", "1"},
                               {"OMP_NUM_THREADS", "1"}});
  }
  std::string called(int rank) const { return small.folder.read("called." + std::to_string(rank)); }
};

void expect_holds(const std::string& text, const Words& parts) {
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " is not in " << text;
}

TEST_F(ProfileScripts, NsysOnEveryRank) {
  const Outcome o = run("profile_nsys.sh", {"-n", "2", "-o", folder, "--first", "2", "--last", "3", "train", config});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  expect_holds(o.err, {"profiler: records steps 2 to 3", "emul: cudaProfilerStart", "emul: cudaProfilerStop"});
  for (int rank : {0, 1})
    expect_holds(called(rank), {"nsys profile --output=" + folder + "/rank" + std::to_string(rank) + " ",
                                "--capture-range=cudaProfilerApi", "--trace=cuda,cublas,nvtx,mpi",
                                " train " + config + " --device=cuda --train.profile_step_start=2"});
  EXPECT_TRUE(fs::is_directory(folder));
}

TEST_F(ProfileScripts, NsysOnTheCpuTakesTheRange) {
  const Outcome o = run("profile_nsys.sh",
                        {"-o", folder, "--first", "1", "--last", "1", "train", config, "--device=cpu"}, UPCYCLE_BINARY);
  ASSERT_EQ(o.exit_code, 0) << o.err;
  expect_holds(o.err, {"the range \"profile\" alone"});
  EXPECT_EQ(o.err.find("emul: cudaProfiler"), std::string::npos);
  expect_holds(called(0), {"--capture-range=nvtx --nvtx-capture=profile@upcycle", "register only: 0"});
}

TEST_F(ProfileScripts, NcuOnRankZero) {
  const Outcome o = run("profile_ncu.sh", {"-n", "2", "-o", folder, "--first", "2", "--last", "2", "--kernels",
                                           "rms_norm", "--count", "7", "train", config});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  expect_holds(called(0), {"ncu --export=" + folder + "/rank0 ", "--profile-from-start=off",
                           "--kernel-name=regex:rms_norm ", "--launch-count=7 "});
  EXPECT_FALSE(fs::exists(record + ".1"));
}

TEST_F(ProfileScripts, ABenchIsGivenAWindowThatItReaches) {
  const Outcome o = run("profile_nsys.sh", {"-o", folder, "bench", "step", config, "--steps", "2", "--warmup=1"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  expect_holds(called(0), {"--train.profile_step_start=2 --train.profile_step_end=3"});
  expect_holds(o.err, {"profiler: records steps 2 to 3", "emul: cudaProfilerStop"});
}

TEST_F(ProfileScripts, WhatIsRefused) {
  const auto refused = [&](const std::string& script, const Words& arguments, const std::string& says,
                           bool tools = true) {
    const Outcome o = run(script, arguments, UPCYCLE_EMULATED, tools);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    EXPECT_EQ(o.err.find(script + ": "), 0u) << o.err;
    EXPECT_NE(o.err.find(says), std::string::npos) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
    EXPECT_FALSE(fs::exists(folder));
  };
  refused("profile_nsys.sh", {"-o", folder, "train", config}, "nsys is not on the PATH", false);
  refused("profile_ncu.sh", {"-o", folder, "train", config}, "ncu is not on the PATH", false);
  refused("profile_ncu.sh", {"-o", folder, "train", config, "--device=cpu"}, "expected cuda");
  refused("profile_nsys.sh", {"-o", folder, "eval", config}, "found 'eval', expected train or bench step");
  refused("profile_nsys.sh", {"-o", folder, "--steps", "3", "train", config}, "unknown option --steps");
  refused("profile_nsys.sh", {"-o", folder, "-n", "none", "train", config}, "found 'none'");
}

}  // namespace
}  // namespace upcycle
