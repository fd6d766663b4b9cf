#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "tests/cli/small_run.h"

// A run whose saves fail: it goes on, says each failure in a line, keeps what it had, and gives up after three.
namespace upcycle {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMostFailed = 3;
constexpr const char *kFailure = "was not saved", *kAborted = "MPI_ABORT";

struct FailedSaves : testing::Test {
  const SmallRun small;
  std::string run = small.file("run");

  json saves(int ranks, bool background = true) const {
    json c = {{"train", {{"steps", 6}, {"micro_batch_size", 1}}},
              {"checkpoint", {{"every", 1}, {"keep", 2}, {"background", background}}}};
    if (ranks == 4) c["parallel"] = {{"tp", 2}};
    return c;
  }

  // `fault`: its last word is a path in the run folder. `before`: a shell's commands before the program.
  Outcome train(int ranks, const json& changes, const std::string& fault, const std::string& before = "") {
    const std::string config = small.write_config("run", changes);
    std::vector<std::string> words{UPCYCLE_BINARY};
    if (ranks > 1) words = {UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks)};
    words.insert(words.end(), {"train", config});
    if (!before.empty()) {
      const std::vector<std::string> shell{"/bin/sh", "-c", before + "; exec \"$0\" \"$@\""};
      words.insert(words.begin(), shell.begin(), shell.end());
    }
    std::map<std::string, std::string> environment{{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}};
    if (!fault.empty()) {
      environment["LD_PRELOAD"] = UPCYCLE_FAULTS;
      const std::size_t path = fault.rfind(' ') + 1;
      environment["UPCYCLE_FAULT"] = fault.substr(0, path) + "path=" + run + "/" + fault.substr(path);
    }
    return run_program(words, environment);
  }

  static int count(const std::string& text, const std::string& part) {
    int n = 0;
    for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
    return n;
  }

  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(run)) found.insert(entry.path().filename());
    return found;
  }
  using Names = std::set<std::string>;
  const Names always{".lock", "latest", "metrics.jsonl", "run.json"};
  void expect_names(Names expected, const Outcome& o) {
    expected.insert(always.begin(), always.end());
    EXPECT_EQ(names(), expected) << o.err;
  }
};

// One failure of every kind, in the second of six saves or later: said once, and the run ends as ever.
TEST_F(FailedSaves, OneIsSaidAndTrainingGoesOn) {
  const auto fails = [&](const std::string& fault, bool background) {
    const Outcome o = train(1, saves(1, background), fault);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_EQ(count(o.err, kFailure), 1) << fault << o.err;
    EXPECT_EQ(count(o.err, "warning"), 1) << fault << o.err;
    EXPECT_EQ(step_lines(run).size(), 6u);
    expect_names({"step_00000005", "step_00000006"}, o);
    fs::remove_all(run);
  };
  fails("operation=write call=30 fault=ENOSPC step_00000003.tmp", true);
  fails("operation=fsync fault=EIO step_00000003.tmp", false);
  fails("operation=mkdir fault=EACCES step_00000003.tmp", false);
  fails("operation=rename fault=EDQUOT step_00000003.tmp", true);
  fails("operation=create fault=ENOSPC latest.tmp", true);
}

TEST_F(FailedSaves, OneRankOfFour) {
  const Outcome o = train(4, saves(4), "rank=2 operation=fsync fault=EIO step_00000003.tmp/model");
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(count(o.err, kFailure), 1) << o.err;
  EXPECT_NE(o.err.find("rank 2 on "), o.err.npos) << o.err;
  EXPECT_NE(o.err.find("rank00002.h5: cannot fsync: Input/output error; "), o.err.npos) << o.err;
  EXPECT_NE(o.err.find("training goes on"), o.err.npos) << o.err;
  expect_names({"step_00000005", "step_00000006"}, o);
  EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
}

// The disk is full when the run goes on: two failures are said, the third ends it; what was saved is whole, and once
// there is room the same command ends the run.
TEST_F(FailedSaves, ThreeInARowEndTheRun) {
  for (const int ranks : {1, 4}) {
    json first = saves(ranks);
    first["train"]["steps"] = 2;
    ASSERT_EQ(train(ranks, first, "").exit_code, 0);
    const Outcome o = train(ranks, saves(ranks), "rank=0 operation=write times=always fault=ENOSPC step_");
    EXPECT_EQ(o.exit_code, 1) << o.err;
    EXPECT_EQ(count(o.err, kFailure), 3) << o.err;
    EXPECT_EQ(count(o.err, "\nupcycle: "), 1) << o.err;
    EXPECT_EQ(o.err.find(kAborted), o.err.npos) << o.err;
    EXPECT_NE(o.err.find("3 saves in a row failed, and training ends: make room in "), o.err.npos) << o.err;
    EXPECT_NE(o.err.find("No space left on device"), o.err.npos) << o.err;
    expect_names({"step_00000001", "step_00000002"}, o);
    EXPECT_EQ(run_upcycle({"inspect", run, "--verify"}).exit_code, 0);
    const Outcome again = train(ranks, saves(ranks), "");
    EXPECT_EQ(again.exit_code, 0) << again.err;
    expect_names({"step_00000005", "step_00000006"}, again);
    fs::remove_all(run);
  }
}

// Where more than one save waits for the disk: those behind the failed one are published, and where all fail the run
// ends as soon as it knows of three.
TEST_F(FailedSaves, WhereSeveralWait) {
  for (const int ranks : {1, 4}) {
    json changes = saves(ranks);
    changes["checkpoint"]["max_pending"] = 3;
    changes["train"]["steps"] = 8;
    const Outcome one = train(ranks, changes, "rank=0 operation=fsync fault=EIO step_00000003.tmp/model");
    EXPECT_EQ(one.exit_code, 0) << one.err;
    EXPECT_EQ(count(one.err, kFailure), 1) << one.err;
    EXPECT_NE(one.err.find("checkpoint of step 3 was not saved"), one.err.npos) << one.err;
    expect_names({"step_00000007", "step_00000008"}, one);
    fs::remove_all(run);
    const Outcome all = train(ranks, changes, "rank=0 operation=write times=always fault=ENOSPC step_");
    EXPECT_EQ(all.exit_code, 1) << all.err;
    EXPECT_GE(count(all.err, kFailure), 3) << all.err;
    EXPECT_EQ(count(all.err, "\nupcycle: "), 1) << all.err;
    EXPECT_NE(all.err.find("saves in a row failed, and training ends: make room in "), all.err.npos) << all.err;
    for (const std::string& name : names()) EXPECT_TRUE(always.contains(name)) << name;
    const Outcome again = train(ranks, changes, "");
    EXPECT_EQ(again.exit_code, 0) << again.err;
    expect_names({"step_00000007", "step_00000008"}, again);
    fs::remove_all(run);
  }
}

TEST_F(FailedSaves, TheLastStateOfARun) {
  json changes = saves(1);
  changes["checkpoint"]["every"] = 0;
  const Outcome o = train(1, changes, "operation=fsync times=always fault=EIO step_");
  EXPECT_EQ(o.exit_code, 1) << o.err;
  EXPECT_EQ(count(o.err, kFailure), 1) << o.err;
  EXPECT_NE(o.err.find("\nupcycle: checkpoint of step 6 was not saved"), o.err.npos) << o.err;
  EXPECT_NE(o.err.find("it is the last state of this run"), o.err.npos) << o.err;
  EXPECT_EQ(train(1, changes, "").exit_code, 0);
}

// A limit on the size of files, which a signal would enforce: no file of a checkpoint fits, the metrics do. (One rank:
// MPI's own shared memory would not fit either.)
TEST_F(FailedSaves, BeyondALimitOnSizes) {
  const Outcome o = train(1, saves(1), "", "ulimit -f 24");
  EXPECT_EQ(o.exit_code, 1) << o.err;
  EXPECT_EQ(count(o.err, "File too large"), kMostFailed) << o.err;
  EXPECT_EQ(o.err.find(kAborted), o.err.npos) << o.err;
  EXPECT_FALSE(fs::exists(run + "/latest"));
  for (const std::string& name : names()) EXPECT_TRUE(always.contains(name)) << name;
  EXPECT_GE(step_lines(run).size(), 3u);
}

// Lines that can not be written wait: said once, and how many are missing in the end.
TEST_F(FailedSaves, MetricsThatCanNotBeWritten) {
  const std::string events = run + "/events";
  json changes = saves(1);
  changes["checkpoint"]["every"] = 0;
  changes["train"]["tensorboard_dir"] = events;
  small.write_config("run", changes);
  const std::string config = small.file("run.json");
  const auto with = [&](const std::string& words) {
    return run_program({UPCYCLE_BINARY, "train", config},
                       {{"OMP_NUM_THREADS", "1"}, {"LD_PRELOAD", UPCYCLE_FAULTS}, {"UPCYCLE_FAULT", words}});
  };
  Outcome o = with("operation=write call=3 fault=ENOSPC path=" + run + "/metrics.jsonl");
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(step_lines(run).size(), 6u);
  EXPECT_EQ(count(o.err, "metrics.jsonl: cannot write: No space left on device; training goes on"), 1) << o.err;
  EXPECT_EQ(count(o.err, "metrics.jsonl: is written again; no lines are missing"), 1) << o.err;
  fs::remove_all(run);
  o = with("operation=write call=4 times=always fault=EDQUOT path=" + events);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(step_lines(run).size(), 6u);
  EXPECT_EQ(count(o.err, "Disk quota exceeded"), 1) << o.err;
  EXPECT_EQ(count(o.err, "events are missing at its end"), 1) << o.err;
}

// A disk of its own that really fills up, where this machine lets us make one; the tests above stand in for it.
TEST_F(FailedSaves, OnADiskThatFillsUp) {
  const Outcome may = run_program({"/bin/sh", "-c", "exec unshare --mount true"});
  if (geteuid() != 0 || may.exit_code != 0) GTEST_SKIP() << "a disk of its own needs root and namespaces";
  for (const int ranks : {1, 4}) {
    const std::string config = small.write_config("run", saves(ranks));
    const std::string root = UPCYCLE_ROOT;
    const std::string script = fmt::format(
        "set -e\nmkdir -p {0}\nmount -t tmpfs -o size=2500k tmpfs {0}\n"
        "run() {{ {1} train {2} \"$@\"; }}\n"
        "run --train.steps=2 2>{0}.first\n"
        "avail() {{ df --output=avail -B1 {0} | tail -n1; }}\n"
        "head -c $(($(avail) - 60000)) /dev/zero >{0}/filler\n"
        "code=0; run 2>{0}.full || code=$?\ncat {0}.full\necho code $code\nls -A {0}\n"
        "rm {0}/filler\nrun 2>{0}.last\nls -A {0}\n{3} inspect {0} --verify >/dev/null\n",
        run, ranks == 1 ? UPCYCLE_BINARY : fmt::format("{}/launch/run_local.sh -n {}", root, ranks), config,
        UPCYCLE_BINARY);
    const Outcome o =
        run_program({"/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/bash", "-c", script},
                    {{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}});
    EXPECT_EQ(o.exit_code, 0) << o.out << o.err;
    EXPECT_EQ(count(o.out, "No space left on device; "), 3) << o.out;
    EXPECT_EQ(count(o.out, "code 1\n"), 1) << o.out;
    EXPECT_EQ(count(o.out, ".tmp"), 3) << o.out;  // as the place of each failure; nothing of it is left
    EXPECT_EQ(count(o.out, "step_00000006\n"), 1) << o.out;
  }
}

}  // namespace
}  // namespace upcycle
