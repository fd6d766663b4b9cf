#include "parallel/comm/threads_per_rank.h"

#include <gtest/gtest.h>
#include <sched.h>

#include "tests/mpi_tests.h"

namespace upcycle::test {
namespace {

CoreMask cores(int begin, int end) {
  CoreMask mask;
  for (int c = begin; c < end; ++c) mask.bits[static_cast<std::size_t>(c) / 64] |= std::uint64_t{1} << (c % 64);
  return mask;
}

std::vector<int> threads(const std::vector<CoreMask>& masks) {
  std::vector<int> all;
  for (std::size_t i = 0; i < masks.size(); ++i) all.push_back(threads_of(masks, i));
  return all;
}

TEST(Threads, UnboundRanksDivideTheMachine) {
  EXPECT_EQ(threads({cores(0, 16)}), (std::vector{16}));
  EXPECT_EQ(threads({cores(0, 16), cores(0, 16), cores(0, 16), cores(0, 16)}), (std::vector{4, 4, 4, 4}));
  EXPECT_EQ(threads({cores(0, 16), cores(0, 16), cores(0, 16)}), (std::vector{5, 5, 5}));
  EXPECT_EQ(threads(std::vector(3, cores(0, 3))), (std::vector{1, 1, 1}));
  EXPECT_EQ(threads(std::vector(49, cores(0, 98))), std::vector(49, 2));
  // A job's part of a larger machine.
  EXPECT_EQ(threads({cores(100, 108), cores(100, 108)}), (std::vector{4, 4}));
}

TEST(Threads, BoundRanksTakeWhatTheyAreBoundTo) {
  EXPECT_EQ(threads({cores(0, 2), cores(2, 4)}), (std::vector{2, 2}));
  EXPECT_EQ(threads({cores(0, 1), cores(1, 2)}), (std::vector{1, 1}));
  // Two ranks per socket.
  EXPECT_EQ(threads({cores(0, 64), cores(0, 64), cores(64, 128), cores(64, 128)}), (std::vector{32, 32, 32, 32}));
  EXPECT_EQ(threads({cores(0, 8), cores(8, 12)}), (std::vector{8, 4}));
}

TEST(Threads, MoreRanksThanCoresGetOneEach) {
  EXPECT_EQ(threads(std::vector(5, cores(0, 2))), std::vector(5, 1));
  EXPECT_EQ(threads({cores(0, 1), cores(0, 1)}), (std::vector{1, 1}));
}

TEST(Threads, TheSessionCountsTheRanksOfThisMachine) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_EQ(mpi_session().ranks_on_host(), mpi_session().size());
  // The tests' ranks are not bound.
  EXPECT_EQ(mpi_session().threads(), std::max(1, CPU_COUNT(&set) / mpi_session().size()));
}

}  // namespace
}  // namespace upcycle::test
