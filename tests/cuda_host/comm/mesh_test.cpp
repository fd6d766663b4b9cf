#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/cuda_host/comm/device_buffer.h"

namespace upcycle::test {
namespace {

// World ranks of a group, in its order, as its members tell them.
std::vector<int> members(const Gpu& gpu, Communicator& group) {
  Buffer own(DType::I32, 1), all(DType::I32, group.size());
  store(DType::I32, own.data(), 0, mpi_session().rank());
  const DeviceBuffer from(gpu, own), to(gpu, all);
  gpu.stream->wait(group.all_gather(to.tensor(), from.tensor()));
  Buffer got = to.download();
  std::vector<int> ranks;
  for (std::int64_t i = 0; i < got.size; ++i) ranks.push_back(static_cast<int>(load(DType::I32, got.data(), i)));
  return ranks;
}

TEST(NcclMesh, GroupsAreTheMpiMeshes) {
  const int world = mpi_session().size();
  for (const Mode& mode : {Mode{false, 1}, Mode{true, 7}}) {
    enter(mode);
    for (int tp = 1; tp <= world; ++tp) {
      for (int ep = 1; ep <= world; ++ep) {
        for (const int etp : {1, tp}) {
          if (world % tp != 0 || world % (etp * ep) != 0 || (etp == tp && tp == 1)) continue;
          const Gpu gpu;
          const Mesh mesh = gpu.mesh(tp, ep, etp), mpi = make_test_mesh(tp, ep, etp);
          for (const auto group : {&Mesh::world, &Mesh::tp, &Mesh::dp, &Mesh::ep, &Mesh::edp}) {
            Communicator &got = *(mesh.*group), &want = *(mpi.*group);
            std::vector<int> expected;
            for (const char c : want.gather_text(std::to_string(mpi_session().rank()))) expected.push_back(c - '0');
            EXPECT_EQ(members(gpu, got), expected) << want.name();
            EXPECT_EQ(got.rank(), want.rank());
            EXPECT_EQ(got.name(), want.name());
          }
        }
      }
    }
  }
  enter({false, 1});
}

TEST(NcclMesh, RefusesAnotherWorldAndOtherStreams) {
  const Gpu gpu;
  const int world = mpi_session().size();
  EXPECT_THROW(make_nccl_mesh(mpi_session(), make_layout(world + 1, 1, 1, 1), *gpu.device, *gpu.stream), Error);
  EXPECT_THROW(make_nccl_mesh(mpi_session(), make_layout(world, 1, 1, 1), *gpu.device, test_stream()), Error);
}

TEST(LocalRank, CountsTheRanksOfThisMachine) {
  EXPECT_EQ(mpi_session().local_rank(), mpi_session().rank());  // these tests run on one machine
  EXPECT_EQ(mpi_session().ranks_on_host(), mpi_session().size());
}

}  // namespace
}  // namespace upcycle::test
