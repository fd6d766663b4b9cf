#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;

CheckpointInfo info_of(const Mesh& mesh, const ModelConfig& model, std::int64_t step, const RankState& state) {
  CheckpointInfo info = some_info(model, step);
  info.layout = mesh.layout;
  info.optimizer_steps = state.steps;
  return info;
}

void expect_whole_steps(const Checkpoint& c) {
  for (const auto& row : make_global_table(c.model()).rows)
    EXPECT_EQ(c.info().optimizer_steps.at(row.name), row.expert >= 0 ? 3 + row.expert : 100) << row.name;
}

TEST(SaveOverRanks, EachLayoutRoundTrips) {
  const int world = mpi_session().size();
  const ModelConfig model = small_model(4);
  std::vector<Mesh> meshes;
  meshes.push_back(make_test_mesh());
  meshes.push_back(make_test_mesh(1, world == 4 ? 4 : world));
  if (world % 2 == 0) meshes.push_back(make_test_mesh(2, 2));
  SharedFolder folder(*meshes[0].world);
  for (std::size_t i = 0; i < meshes.size(); ++i) {
    const Mesh& mesh = meshes[i];
    const RankState state = rank_state(model, mesh.layout, mesh.rank, 2);
    CheckpointWriter w(folder.path + "/run" + std::to_string(i), *mesh.world, 0);
    w.start(info_of(mesh, model, 4, state), state.pieces, {});
    w.finish();
    const auto c = open_checkpoint(folder.path + "/run" + std::to_string(i), true, mesh.world.get());
    expect_whole(*c);
    expect_whole_steps(*c);
  }
}

TEST(SaveOverRanks, OneFailureFailsAll) {
  const Mesh mesh = make_test_mesh();
  SharedFolder folder(*mesh.world);
  const std::string run = folder.path + "/run";
  const ModelConfig model = small_model(0);
  const RankState state = rank_state(model, mesh.layout, mesh.rank, 2);
  CheckpointWriter w(run, *mesh.world, 0);
  w.start(info_of(mesh, model, 1, state), state.pieces, {});
  w.finish();
  // A folder with the last rank's file name: only this rank can not create its file.
  const int last = mesh.layout.world - 1;
  if (mesh.rank == 0) fs::create_directories(run + "/step_00000002.tmp/" + model_file_name(last));
  mesh.world->barrier();
  w.start(info_of(mesh, model, 2, state), state.pieces, {});
  try {
    w.finish();
    ADD_FAILURE() << "no Error";
  } catch (const Error& e) {
    EXPECT_TRUE(contains(e.what(), fmt::format("rank {}: ", last)));
    EXPECT_TRUE(contains(e.what(), model_file_name(last)));
  }
  EXPECT_FALSE(fs::exists(run + "/step_00000002.tmp"));
  EXPECT_FALSE(fs::exists(run + "/step_00000002"));
  EXPECT_EQ(open_checkpoint(run, true, mesh.world.get())->info().step, 1);
  w.start(info_of(mesh, model, 2, state), state.pieces, {});
  w.finish();
  EXPECT_EQ(open_checkpoint(run, true, mesh.world.get())->info().step, 2);
}

TEST(SaveOverRanks, DamageIsAgreed) {
  const Mesh mesh = make_test_mesh();
  SharedFolder folder(*mesh.world);
  const std::string run = folder.path + "/run";
  const ModelConfig model = small_model(0);
  const RankState state = rank_state(model, mesh.layout, mesh.rank, 0);
  {
    CheckpointWriter w(run, *mesh.world, 0);
    w.start(info_of(mesh, model, 1, state), state.pieces, {});
    w.finish();
  }
  if (mesh.rank == 0) fs::remove(run + "/step_00000001/" + model_file_name(mesh.layout.world - 1));
  mesh.world->barrier();
  expect_input_error([&] { open_checkpoint(run, true, mesh.world.get()); },
                     {"no such file", model_file_name(mesh.layout.world - 1).c_str()});
}

}  // namespace
}  // namespace upcycle::test
