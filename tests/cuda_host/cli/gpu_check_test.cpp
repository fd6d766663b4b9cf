#include <algorithm>
#include <filesystem>

#include "tests/cli/small_run.h"

// launch/gpu_check.sh without a GPU: what it refuses, and its course on the emulated one with stand-ins for what only a
// machine with a GPU has.
namespace upcycle {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

struct GpuCheck : ::testing::Test {
  SmallRun small;

  void program(const std::string& name, const std::string& text) const {
    fs::create_directories((small.folder.path / name).parent_path());
    fs::permissions(small.folder.write(name, "#!/bin/bash\n" + text), fs::perms::owner_all);
  }
  Outcome run(Words arguments, bool gpu) const {
    Words words{UPCYCLE_ROOT "/launch/gpu_check.sh"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::string path = (gpu ? small.file("tools") + ":" : "") + "/usr/bin:/bin";
    return run_program(words, {{"PATH", path},
                               {"UPCYCLE_GPU_BINARIES", small.file("build")},
                               {"UPCYCLE_GPU_BENCH", small.file("run.json")},
                               {"OMP_NUM_THREADS", "1"}});
  }
};

TEST_F(GpuCheck, SaysThatThereIsNoGpu) {
  if (fs::exists("/dev/nvidiactl")) GTEST_SKIP() << "there is one";
  const Outcome o = run({"--out", small.file("out")}, false);
  EXPECT_EQ(o.exit_code, 2);
  EXPECT_EQ(o.err.find("gpu_check.sh: nvidia-smi lists no GPU here"), 0u) << o.err;
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  EXPECT_FALSE(fs::exists(small.file("out")));
  EXPECT_EQ(run({"--fast"}, false).exit_code, 2);
  const Outcome help = run({"--help"}, false);
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_NE(help.out.find("compute-sanitizer"), std::string::npos) << help.out;
}

TEST_F(GpuCheck, EndsWhereTheBuildFails) {
  program("tools/nvidia-smi", "echo 'GPU 0: A stand-in (UUID: x)'");
  program("launch/build.sh", "echo no compiler; exit 1");
  program("build/upcycle", "exit 0");  // of an older tree
  fs::copy(UPCYCLE_ROOT "/launch/gpu_check.sh", small.file("launch"));
  const Outcome o =
      run_program({small.file("launch/gpu_check.sh"), "--out", small.file("out")},
                  {{"PATH", small.file("tools") + ":/usr/bin:/bin"}, {"UPCYCLE_GPU_BINARIES", small.file("build")}});
  EXPECT_EQ(o.exit_code, 2) << o.out << o.err;
  EXPECT_NE(o.err.find("gpu_check.sh: the build failed, " + small.file("out/build.log")), std::string::npos) << o.err;
  EXPECT_NE(small.folder.read("out/build.log").find("no compiler"), std::string::npos);
  EXPECT_FALSE(fs::exists(small.file("out/report.md")));
}

TEST_F(GpuCheck, WritesOneReport) {
  small.write_config("run", {{"model", {{"num_local_experts", 4}}}, {"checkpoint", {{"dir", nullptr}}}});
  program("tools/nvidia-smi", "[[ $1 == -L ]] && printf 'GPU %d: A stand-in (UUID: x)\\n' 0 1 || echo 1.2.3");
  program("tools/compute-sanitizer", "echo '== ERROR SUMMARY: 0 errors'");
  for (const char* suite : {"tests/cuda_host/test_gpu", "tests/test_gpu_parity_mpi"})
    program(std::string("build/") + suite, "echo '[  PASSED  ] 3 tests.'");
  program("build/tests/cuda_host/test_gpu_train", "echo '[  FAILED  ] 1 test.'; exit 1");
  fs::create_symlink(UPCYCLE_EMULATED, small.file("build/upcycle"));

  const Outcome o = run({"--out", small.file("out"), "--no-build", "--quick"}, true);
  EXPECT_EQ(o.exit_code, 1) << o.out << o.err;  // of the one suite that fails
  const std::string report = small.folder.read("out/report.md");
  for (const char* part :
       {"# Upcycle on A stand-in, 2 GPU(s)", "driver 1.2.3", "| ops | passed |", "3 tests",
        "| training_steps | **FAILED**, see training_steps.log |", "| fp32_as_on_the_cpu | passed |", "same: 3 losses",
        "| nccl_2_ranks_ep=2 | passed |", "| nccl_2_ranks_tp=2 | passed |", "| nccl_4_ranks_ep=4 | not run: 2 GPU(s) |",
        "| parity_2_ranks | passed |", "| compute-sanitizer | not run: --quick |", "| bench_step_fp32 | passed |",
        "## bench_ops_bf16", "| attention_backward |"})
    EXPECT_NE(report.find(part), std::string::npos) << part << " is not in\n" << report;
}

}  // namespace
}  // namespace upcycle
