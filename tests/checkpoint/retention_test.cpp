#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/read_lock.h"
#include "parallel/checkpoint/reader.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

struct RetentionOfSteps : testing::Test {
  TemporaryFolder folder;
  std::string run = folder.file("run");
  Mesh mesh = make_single_mesh();
  ModelConfig model = small_model(3);
  RankState state = rank_state(model, mesh.layout, 0, 2);
  std::string said;  // by save and remove

  void save(CheckpointWriter& w, std::initializer_list<std::int64_t> steps) {
    testing::internal::CaptureStderr();
    for (const std::int64_t step : steps) save_state(w, some_info(model, step), state);
    said = testing::internal::GetCapturedStderr();
  }
  void remove(const Retention& keep) {
    testing::internal::CaptureStderr();
    remove_old_steps(run, keep);
    said = testing::internal::GetCapturedStderr();
  }
  using Names = std::vector<std::string>;
  Names steps() const { return published_steps(run); }
};

TEST_F(RetentionOfSteps, MultiplesAreNeverRemoved) {
  CheckpointWriter w(run, *mesh.world, Retention(2, 10));
  save(w, {5, 10, 15, 20, 25, 30, 31});
  EXPECT_EQ(steps(), (Names{"step_00000010", "step_00000020", "step_00000030", "step_00000031"}));
  remove(Retention(1, 20));
  EXPECT_EQ(steps(), (Names{"step_00000020", "step_00000031"}));
  EXPECT_EQ(said, "");
}

// The newest lost its last byte, or its manifest one bit: what is older may be all that is whole.
TEST_F(RetentionOfSteps, NothingIsRemovedWhereTheNewestIsNotWhole) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, {1, 2, 3});
  for (const char* file : {"optimizer.rank00000.h5", "manifest.json"}) {
    const std::string name = "run/step_00000003/" + std::string(file), good = folder.read(name);
    std::string bad = good;
    bad[bad.size() / 2] ^= 1;
    folder.write(name, std::string(file) == "manifest.json" ? bad : good.substr(0, good.size() - 1));
    remove(1);
    EXPECT_EQ(steps().size(), 3u) << file;
    EXPECT_TRUE(contains(said, file));
    EXPECT_TRUE(contains(said, "older steps stay"));
    folder.write(name, good);
  }
  remove(1);
  EXPECT_EQ(steps(), Names{"step_00000003"});
}

TEST_F(RetentionOfSteps, AStepThatIsReadStaysUntilTheNextSave) {
  CheckpointWriter w(run, *mesh.world, 1);
  save(w, {1});
  auto reader = open_checkpoint(run), other = open_checkpoint(run);
  save(w, {2});
  EXPECT_EQ(steps(), (Names{"step_00000001", "step_00000002"}));
  EXPECT_TRUE(contains(said, "step_00000001: another process reads it: it stays until the next save"));
  expect_whole(*reader);
  other.reset();
  save(w, {3});
  EXPECT_EQ(steps(), (Names{"step_00000001", "step_00000003"}));
  expect_whole(*reader);
  reader.reset();
  save(w, {4});
  EXPECT_EQ(steps(), Names{"step_00000004"});
  EXPECT_EQ(said, "");
}

TEST_F(RetentionOfSteps, AStepThatIsBeingRemovedIsNotRead) {
  CheckpointWriter w(run, *mesh.world, 0);
  save(w, {1});
  {
    const auto removing = RemovalLock::try_lock(run + "/step_00000001");
    ASSERT_TRUE(removing);
    expect_input_error([&] { open_checkpoint(run); }, {"step_00000001: is being removed"});
  }
  const ReadLock reading(run + "/step_00000001");
  EXPECT_FALSE(RemovalLock::try_lock(run + "/step_00000001"));
  EXPECT_TRUE(RemovalLock::try_lock(run + "/step_00000002")) << "there is nothing to read";
  expect_whole(*open_checkpoint(run));
}

}  // namespace
}  // namespace upcycle::test
