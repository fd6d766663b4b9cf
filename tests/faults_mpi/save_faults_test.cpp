#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/verify.h"
#include "parallel/checkpoint/writer.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"
#include "tests/faults/faults.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"

// Every call that changes a file while a checkpoint is saved fails once, then always, on the first rank and on the
// last: all ranks agree that the save failed, nothing of it stays, and the next one succeeds.
namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

struct Fault {
  const char *operation, *code, *said;
};
constexpr Fault kFaults[] = {
    {"create", "EACCES", "Permission denied"},      {"create", "ENOSPC", "No space left on device"},
    {"write", "ENOSPC", "No space left on device"}, {"write", "EDQUOT", "Disk quota exceeded"},
    {"fsync", "EIO", "Input/output error"},         {"close", "EDQUOT", "Disk quota exceeded"},
    {"rename", "EACCES", "Permission denied"},      {"rename", "ENOSPC", "No space left on device"},
    {"unlink", "EIO", "Input/output error"},        {"unlink", "EROFS", "Read-only file system"},
    {"truncate", "EIO", "Input/output error"},      {"mkdir", "ENOSPC", "No space left on device"},
    {"open", "EIO", "Input/output error"},
};

int descriptors() {
  int n = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

struct SaveFaults : testing::Test {
  Mesh mesh = make_test_mesh();
  Communicator& world = *mesh.world;
  SharedFolder folder{world};
  std::string run = folder.path + "/run";
  ModelConfig model = small_model(3);
  RankState state = rank_state(model, mesh.layout, mesh.rank, 2);
  std::vector<float> memory[2] = {std::vector<float>(4096), std::vector<float>(4096)};
  std::int64_t step = 0;
  int faults = 0, failed = 0;

  // "": saved; else why not, on every rank the same.
  std::string save(CheckpointWriter& w, bool streamed, bool alone) {
    CheckpointInfo info = some_info(model, ++step);
    info.layout = mesh.layout;
    if (!alone) info.optimizer_steps = state.steps;
    std::vector<SavedPiece> pieces;
    for (const SavedPiece& p : state.pieces)
      if (!alone || p.kind == StateKind::Master) pieces.push_back(p);
    if (alone) info.weights_alone = DType::F32;
    SavedState saved(pieces);
    if (streamed) {
      for (std::vector<float>& m : memory) saved.buffers.emplace_back(m);
      saved.read = [](const SavedPiece& p, std::int64_t row, std::int64_t rows, float* out) {
        std::copy_n(p.values + row * p.part.columns, rows * p.part.columns, out);
      };
    }
    info.tokenizer = "t.model";
    w.start(info, std::move(saved), {{"t.model", world.rank() == 0 ? "a tokenizer" : ""}});
    try {
      w.finish();
      return "";
    } catch (const SaveFailed& e) {
      return e.what();
    }
  }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& e : fs::directory_iterator(run))
      if (e.path().filename() != ".lock") found.push_back(e.path().filename());
    std::sort(found.begin(), found.end());
    return found;
  }

  // Steps, weights alone and `latest`; nothing half-written, nothing set aside; what `latest` names is whole.
  void expect_no_debris(const std::string& after) {
    world.barrier();
    for (const std::string& name : names())
      EXPECT_TRUE(name == "latest" || is_step_folder_name(name) || is_model_folder_name(name)) << name << after;
    const Verdict v = verify_step(run + "/" + read_latest(run), world);
    EXPECT_TRUE(v.intact()) << v.reason << after;
    world.barrier();
  }

  // Saves with the fault at its n-th call; false: it did not come to it.
  bool save_with(CheckpointWriter& w, const Fault& f, int rank, int n, bool always, bool streamed, bool alone) {
    const std::string latest = read_latest(run);
    const std::string words = fmt::format("rank={} operation={} call={} times={} fault={} path={}", rank, f.operation,
                                          n, always ? "always" : "once", f.code, run);
    world.barrier();
    upcycle_arm_fault(words.c_str());
    testing::internal::CaptureStderr();
    const std::string why = save(w, streamed, alone);
    const std::string warned = testing::internal::GetCapturedStderr();
    const bool met = world.max_of(upcycle_faults_done()) > 0;
    upcycle_arm_fault("");
    const std::string after = fmt::format(" after {}{}{}: {}{}", words, streamed ? ", streamed" : "",
                                          alone ? ", weights alone" : "", why, warned);
    const std::string now = read_latest(run);
    if (!met) {
      EXPECT_EQ(why, "") << after;
      return false;
    }
    ++faults;
    if (why.empty()) {  // the step was published, and what failed came after it: rank 0 said so
      // Or nothing came of it: a file that was only read was closed, a folder was there already, it was tried twice.
      // (An old step's manifest is opened for its lock to write, else to read.)
      const std::set<std::string> quiet{"close", "mkdir", "create", "unlink", "open"};
      EXPECT_TRUE(rank != 0 || world.rank() != 0 || quiet.contains(f.operation) || contains(warned, f.said)) << after;
      EXPECT_EQ(now, alone ? latest : step_folder_name(step)) << after;
      // What was written is what was to be written: its hash would not tell.
      const auto saved =
          open_checkpoint(run + "/" + (alone ? model_folder_name : step_folder_name)(step), true, &world);
      expect_whole(*saved, alone ? 0 : 2);
      if (HasFailure()) ADD_FAILURE() << after;
    } else {
      ++failed;
      EXPECT_EQ(std::count(why.begin(), why.end(), '\n'), 0) << after;
      EXPECT_TRUE(contains(why, f.said)) << after;
      EXPECT_TRUE(contains(why, run)) << after;
      EXPECT_TRUE(contains(why, fmt::format("rank {}", rank)) || rank == 0) << after;
      const bool there = contains(why, "is there, but may be lost in a power cut");
      EXPECT_EQ(now, there && !alone ? step_folder_name(step) : latest) << after;
      if (!always) expect_no_debris(after);
    }
    const Verdict v = verify_step(run + "/" + now, world);
    EXPECT_TRUE(v.intact()) << v.reason << after;
    EXPECT_EQ(save(w, false, false), "") << after;
    EXPECT_EQ(read_latest(run), step_folder_name(step)) << after;
    expect_no_debris(after);
    return true;
  }

  // Those that come often: every one only in the full tier.
  static int next_call(const Fault& f, int n) {
    const bool all = std::getenv("UPCYCLE_EVERY_FAULT") != nullptr;
    const bool often = std::set<std::string>{"write", "open", "close"}.contains(f.operation);
    return !often || all || n < 2 ? n + 1 : n + 1 + n;
  }

  void sweep(bool always, bool streamed, bool alone) {
    CheckpointWriter w(run, world, 2);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(save(w, false, false), "");
    const int open = descriptors();
    for (const int rank : std::set<int>{0, world.size() - 1})
      for (const Fault& f : kFaults)
        for (int n = 1; save_with(w, f, rank, n, always, streamed, alone) && !HasFailure();) n = next_call(f, n);
    EXPECT_LE(descriptors(), open + 2);
    expect_whole(*open_checkpoint(run, true, &world));
    if (world.rank() == 0) std::printf("%d faults, %d saves failed, nothing was left\n", faults, failed);
  }
};

// The first of three that are under way fails: the others are what they are, whatever rank 0 removes of the first.
TEST_F(SaveFaults, TheOldestOfThree) {
  CheckpointWriter w(run, world, 0);
  ASSERT_EQ(save(w, false, false), "");
  for (const char* where : {"step_00000002.tmp", "publishing.tmp"}) {
    SCOPED_TRACE(where);
    world.barrier();
    const std::string fault = fmt::format("rank=0 operation={} fault=EIO path={}/{}",
                                          std::string(where) == "publishing.tmp" ? "create" : "fsync", run, where);
    upcycle_arm_fault(fault.c_str());
    const std::int64_t first = step + 1;
    for (const bool alone : {false, true, false}) {
      if (!alone) ++step;
      CheckpointInfo info = some_info(model, step);
      info.layout = mesh.layout;
      if (alone)
        info.weights_alone = DType::F32;
      else
        info.optimizer_steps = state.steps;
      std::vector<SavedPiece> pieces;
      for (const SavedPiece& p : state.pieces)
        if (!alone || p.kind == StateKind::Master) pieces.push_back(p);
      w.start(info, pieces, {});
    }
    EXPECT_EQ(w.pending(), 3);
    EXPECT_THROW(w.finish(), SaveFailed);
    upcycle_arm_fault("");
    w.finish();
    w.finish();
    EXPECT_FALSE(fs::exists(run + "/" + step_folder_name(first)));
    EXPECT_EQ(read_latest(run), step_folder_name(step));
    expect_no_debris(where);
    expect_whole(*open_checkpoint(run, true, &world));
    expect_whole(*open_checkpoint(run + "/" + model_folder_name(first), true, &world), 0);
  }
}

TEST_F(SaveFaults, OnceInAWholeState) { sweep(false, false, false); }
TEST_F(SaveFaults, AlwaysInAWholeState) { sweep(true, false, false); }
TEST_F(SaveFaults, OnceInAStreamedState) { sweep(false, true, false); }
TEST_F(SaveFaults, OnceInWeightsAlone) { sweep(false, false, true); }

}  // namespace
}  // namespace upcycle::test
