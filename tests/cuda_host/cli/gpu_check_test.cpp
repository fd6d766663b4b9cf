#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "tests/cli/small_run.h"

// launch/gpu_check.sh without a GPU: what it refuses, and a full run on the emulated one with stand-ins for what only a
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
  // What only a machine with a GPU has, and the suites of tests.
  void stand_ins() const {
    program("tools/nvidia-smi", R"(case $1 in
  -L) printf 'GPU %d: A stand-in (UUID: x)\n' 0 1 ;;
  topo) echo 'GPU0 X NV18' ;;
  nvlink) printf 'GPU %d: A stand-in (UUID: x)\n\t Link 0: 26.562 GB/s\n\t Link 1: 26.562 GB/s\n' 0 1 ;;
  *) echo 1.2.3 ;;
esac)");
    program("tools/compute-sanitizer", "echo '== ERROR SUMMARY: 0 errors'");
    for (const char* suite : {"test_gpu", "test_gpu_train", "test_gpu_parity_mpi", "test_gpu_serve_mpi"})
      program(std::string("build/") + suite, "echo '[  PASSED  ] 3 tests.'");
  }
  Outcome run(Words arguments, bool gpu) const {
    Words words{UPCYCLE_ROOT "/launch/gpu_check.sh"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::string path = (gpu ? small.file("tools") + ":" : "") + "/usr/bin:/bin";
    return run_program(words, {{"PATH", path},
                               {"UPCYCLE_GPU_BINARIES", small.file("build")},
                               {"UPCYCLE_GPU_BENCH", small.file("run.json")},
                               {"UPCYCLE_GPU_BYTES", "65536"},
                               {"UPCYCLE_EMUL_MEMORY", "2147483648"},  // large operands are a share of it
                               {"OMP_NUM_THREADS", "1"}});
  }
};

// Part by part, as the report has them.
std::vector<std::string> rows_of(const std::string& report) {
  std::vector<std::string> rows;
  std::istringstream lines(report);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("| ") && line.find(" | ") != std::string::npos) rows.push_back(line);
  return rows;
}

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
  EXPECT_NE(small.folder.read("out/report.md").find("| build | **FAILED**, see build.log |"), std::string::npos);
}

TEST_F(GpuCheck, WritesOneReport) {
  small.write_config("run", {{"model", {{"num_local_experts", 4}}}, {"checkpoint", {{"dir", nullptr}}}});
  stand_ins();
  program("build/test_gpu_train", "echo '[  FAILED  ] 1 test.'; exit 1");
  fs::create_symlink(UPCYCLE_EMULATED, small.file("build/upcycle"));
#ifdef UPCYCLE_NVTX_RECORDER
  fs::create_symlink(UPCYCLE_NVTX_RECORDER, small.file("build/libnvtx_recorder.so"));
  const Words on_tensor_cores{"| bf16_heads_of_64 | passed |", "attention_forward_mma ran 6 times",
                              "| bf16_heads_of_128 | passed |", "attention_backward_mma ran 6 times"};
#else
  const Words on_tensor_cores{"| attention_on_tensor_cores | not run: the build has no NVTX"};
#endif

  const Outcome o = run({"--out", small.file("out"), "--no-build", "--quick"}, true);
  EXPECT_EQ(o.exit_code, 1) << o.out << o.err;  // of the one suite that fails
  const std::string report = small.folder.read("out/report.md");
  Words parts{"# Upcycle on A stand-in, 2 GPU(s)",
              "driver 1.2.3",
              "gpu_check.sh --out",
              "| ops | passed |",
              "3 tests",
              "| training_steps | **FAILED**, see training_steps.log |",
              "| fp32_as_on_the_cpu | passed |",
              "same: 3 losses",
              "| bf16_as_on_the_cpu | passed |"};
  parts.insert(parts.end(), on_tensor_cores.begin(), on_tensor_cores.end());
  for (const char* part :
       {"| nccl_2_ranks_ep=2 | passed |", "| nccl_2_ranks_tp=2 | passed |", "| nccl_4_ranks_ep=4 | not run: 2 GPU(s) |",
        "| parity_2_ranks | passed |", "| bench_step_fp32 | passed |", " GiB in use on its GPU, ",
        "| bench_collectives_2 | passed |", "| bench_step_2 | passed |", "| bench_collectives_8 | not run: 2 GPU(s) |",
        "| compute-sanitizer | not run: --quick |", "## training_steps: the end of its log", "## bench_collectives_2",
        "| of the link |", "| world | 2 | all_to_all_v | 65536 |", "## bench_ops_bf16", "| attention_backward |",
        "## links", "GPU0 X NV18", "Link 1: 26.562 GB/s"})
    parts.emplace_back(part);
  std::size_t at = 0;  // most important first
  for (const std::string& part : parts) {
    const std::size_t found = report.find(part, at);
    ASSERT_NE(found, std::string::npos) << part << " is not in, or too early in\n" << report;
    at = found;
  }
}

// Programs that never end get their share of the time, and the report says what there was no time for.
TEST_F(GpuCheck, EndsInTheMinutesThatItHas) {
  stand_ins();
  program("build/test_gpu", "echo '[       OK ] One.Test (1 ms)'; exec sleep 100");
  program("build/upcycle", "exec sleep 100");
  const Outcome o = run({"--out", small.file("out"), "--no-build", "--minutes", "0.1"}, true);
  EXPECT_EQ(o.exit_code, 1) << o.out << o.err;
  const std::vector<std::string> rows = rows_of(small.folder.read("out/report.md"));
  ASSERT_GT(rows.size(), 10u);
  // Half of what is left of the six seconds, of which a busy machine takes some to start.
  const std::regex stopped(
      R"(\| ops \| \*\*stopped\*\*: no end in the [1-3] s that it got \| [1-3] s \| 1 tests passed.*)");
  EXPECT_TRUE(std::regex_match(rows[1], stopped)) << rows[1];
  EXPECT_EQ(rows[2].find("| training_steps | passed |"), 0u) << rows[2];
  EXPECT_EQ(rows.back(), "| bench_one_node | not run: 2 GPU(s) | | |");
  for (const char* word : {"none", "0", "-1", "x"})
    EXPECT_NE(
        run({"--minutes", word}, true).err.find("--minutes: found '" + std::string(word) + "', expected a number"),
        std::string::npos);
}

// Killed without warning, as when a connection is cut, it leaves what it has recorded.
TEST_F(GpuCheck, LeavesAReportWhereItIsKilled) {
  stand_ins();
  program("build/test_gpu_train", "read -r _ _ _ script _ </proc/$PPID/stat; kill -KILL $script");
  fs::create_symlink("/bin/true", small.file("build/upcycle"));
  EXPECT_EQ(run({"--out", small.file("out"), "--no-build"}, true).exit_code, 128 + 9);
  const std::vector<std::string> rows = rows_of(small.folder.read("out/report.md"));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[1].find("| ops | passed |"), 0u) << rows[1];
  EXPECT_EQ(rows[2].find("| training_steps | running since "), 0u) << rows[2];
}

// A signal ends what runs, and what that started.
TEST_F(GpuCheck, EndsItsPartWhereItIsStopped) {
  stand_ins();
  program("build/test_gpu", "sleep 100 & echo $! >" + small.file("pid.tmp") + "; mv " + small.file("pid.tmp") + " " +
                                small.file("pid") + "; wait");
  fs::create_symlink("/bin/true", small.file("build/upcycle"));
  Started check({UPCYCLE_ROOT "/launch/gpu_check.sh", "--out", small.file("out"), "--no-build"},
                {{"PATH", small.file("tools") + ":/usr/bin:/bin"}, {"UPCYCLE_GPU_BINARIES", small.file("build")}});
  for (int i = 0; i < 2000 && !fs::exists(small.file("pid")); ++i) usleep(10000);
  ASSERT_TRUE(fs::exists(small.file("pid")));
  check.terminate();
  EXPECT_EQ(check.finish().exit_code, 1);
  const std::string process = "/proc/" + std::to_string(std::stoi(small.folder.read("pid"))) + "/status";
  const auto runs = [&] {  // a zombie has ended
    std::ifstream status(process);
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("State:")) return line.find('Z') == std::string::npos;
    return false;
  };
  for (int i = 0; i < 500 && runs(); ++i) usleep(10000);
  EXPECT_FALSE(runs());
}

TEST_F(GpuCheck, ABundleIsRefusedInOneLine) {
  const auto refused = [&](Words arguments) {
    arguments.insert(arguments.begin(), UPCYCLE_ROOT "/launch/gpu_bundle.sh");
    const Outcome o = run_program(arguments);
    EXPECT_EQ(o.exit_code, 2);
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
    return o.err;
  };
  EXPECT_NE(refused({"--quick"}).find("unknown option --quick (known: --out, --build, --fast)"), std::string::npos);
  const std::string err = refused({"--build", small.file("none"), "--out", small.file("out.tar.xz")});
  EXPECT_NE(err.find(small.file("none") + " has no upcycle or no test_gpu: build its target gpu_programs"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(small.file("out.tar.xz")));
}

// What launch/gpu_check.sh compares runs with. The runs here are scripts that write the losses they are told.
TEST_F(GpuCheck, LossesThatDifferFail) {
  program("run", R"(for l in $1; do echo "{\"loss\": $l}"; done >"$folder.jsonl"
mkdir -p "${2#--checkpoint.dir=}" && mv "$folder.jsonl" "${2#--checkpoint.dir=}/metrics.jsonl"
[[ -z ${UPCYCLE_NVTX_RECORD:-} ]] || echo '> 7 upcycle layer_forward' >"$UPCYCLE_NVTX_RECORD.0")");
  const auto code = [&](const std::string& first, const std::string& second, const std::string& ranges = "") {
    Words words{UPCYCLE_ROOT "/launch/same_losses.py", "1e-3", small.folder.path.string()};
    if (!ranges.empty()) words.insert(words.end(), {ranges, "recorder"});
    words.insert(words.end(), {"--", small.file("run"), first, "--", small.file("run"), second});
    return run_program(words, {{"folder", small.file("losses")}}).exit_code;
  };
  EXPECT_EQ(code("5 4", "5.001 4"), 0);
  EXPECT_EQ(code("5 4", "5.01 4"), 1);
  EXPECT_EQ(code("5 4", "5"), 1);
  EXPECT_EQ(code("5 4", "5 NaN"), 1);
  EXPECT_EQ(code("", ""), 1);
  EXPECT_EQ(code("5", "5", "layer_forward"), 0);
  EXPECT_EQ(code("5", "5", "layer_forward,attention_forward_mma"), 1);
}

}  // namespace
}  // namespace upcycle
