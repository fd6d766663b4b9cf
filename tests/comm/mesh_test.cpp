#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/rounds.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {
namespace {

// World ranks of a group, in its order, as its members tell them.
std::vector<int> members(Communicator& group) {
  std::vector<std::int32_t> ranks(static_cast<std::size_t>(group.size()));
  std::int32_t own = mpi_session().rank();
  wait(group.all_gather(Tensor(ranks.data(), DType::I32, {group.size()}), Tensor(&own, DType::I32, {1})));
  return {ranks.begin(), ranks.end()};
}

TEST(Mesh, GroupsHoldTheRanksThatTheLayoutSays) {
  const int world = mpi_session().size(), rank = mpi_session().rank();
  for (int tp = 1; tp <= world; ++tp) {
    for (int ep = 1; ep <= world; ++ep) {
      for (const int etp : {1, tp}) {
        if (world % tp != 0 || world % (etp * ep) != 0 || (etp == tp && tp == 1)) continue;
        const Mesh mesh = make_test_mesh(tp, ep, etp);
        std::vector<int> all, tp_group, dp_group, ep_group, edp_group;
        for (int r = 0; r < world; ++r) {
          all.push_back(r);
          if (r / tp == rank / tp) tp_group.push_back(r);
          if (r % tp == rank % tp) dp_group.push_back(r);
          const bool same_etp = r % etp == rank % etp, same_ep = r / etp % ep == rank / etp % ep,
                     same_edp = r / (etp * ep) == rank / (etp * ep);
          if (same_etp && same_edp) ep_group.push_back(r);
          if (same_etp && same_ep) edp_group.push_back(r);
        }
        EXPECT_EQ(members(*mesh.world), all);
        EXPECT_EQ(members(*mesh.tp), tp_group);
        EXPECT_EQ(members(*mesh.dp), dp_group);
        EXPECT_EQ(members(*mesh.ep), ep_group);
        EXPECT_EQ(members(*mesh.edp), edp_group);
        EXPECT_EQ(mesh.rank, rank);
        EXPECT_EQ(mesh.tp->rank(), mesh.at.tp);
        EXPECT_EQ(mesh.edp->rank(), mesh.at.edp);
        EXPECT_EQ(mesh.edp->name(), "edp");
      }
    }
  }
}

TEST(Mesh, RefusesALayoutOfAnotherWorld) {
  const auto device = make_cpu_device();
  const auto stream = device->make_stream();
  EXPECT_THROW(make_mesh(mpi_session(), make_layout(mpi_session().size() + 1, 1, 1, 1), *stream), Error);
}

TEST(Mesh, ScratchOfAGroup) {
  EXPECT_EQ(collective_scratch_bytes(Layout{}), 0u);
  const std::size_t mib = std::size_t{1} << 20;
  EXPECT_EQ(collective_scratch_bytes(make_layout(4, 2, 2, 1)), (4 + 2 + 2 + 2 + 2) * mib);
  EXPECT_EQ(reduction_scratch_bytes(256), 64 * mib);
}

TEST(SingleMesh, IsOneRankInEveryGroup) {
  const Mesh mesh = make_single_mesh();
  for (Communicator* c : {mesh.world.get(), mesh.tp.get(), mesh.dp.get(), mesh.ep.get(), mesh.edp.get()}) {
    ASSERT_NE(c, nullptr);
    EXPECT_EQ(c->size(), 1);
    EXPECT_EQ(c->rank(), 0);
  }
  EXPECT_EQ(mesh.edp->name(), "edp");
}

TEST(SingleMesh, CopiesAndMayAlias) {
  const Mesh mesh = make_single_mesh();
  float a[] = {1, 2, 3, 4}, b[] = {0, 0, 0, 0};
  const Tensor ta(a, DType::F32, {4}), tb(b, DType::F32, {4});
  mesh.tp->all_reduce(ta);
  EXPECT_EQ(a[3], 4);
  mesh.tp->reduce_scatter(tb, ta);
  EXPECT_EQ(b[3], 4);
  b[3] = 5;
  mesh.tp->all_gather(ta, tb);
  EXPECT_EQ(a[3], 5);
  mesh.tp->all_gather(ta, ta);
  mesh.tp->reduce_scatter(ta, ta);
  const std::int64_t three[] = {3};
  mesh.ep->all_to_all_v(ta, three, ta, three);
  EXPECT_EQ(a[2], 3);
  a[0] = 7;
  a[3] = 9;
  mesh.ep->all_to_all_v(tb, three, ta, three);
  EXPECT_EQ(b[0], 7);
  EXPECT_EQ(b[3], 5);  // a fourth row was not sent
  EXPECT_EQ(mesh.world->gather_text("x"), "x");
  EXPECT_EQ(mesh.world->sum_of(-0.5), -0.5);
}

}  // namespace
}  // namespace upcycle::test
