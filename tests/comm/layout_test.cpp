#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/layout.h"

namespace upcycle {
namespace {

struct Case {
  int world, tp, ep, etp, dp, edp;
};

TEST(Layout, FillsInTheReplicaGroups) {
  for (const Case& c : {Case{1, 1, 1, 1, 1, 1}, Case{2, 2, 1, 1, 1, 2}, Case{2, 2, 1, 2, 1, 1}, Case{2, 1, 2, 1, 2, 1},
                        Case{4, 2, 4, 1, 2, 1}, Case{4, 2, 2, 2, 2, 1}, Case{8, 2, 2, 1, 4, 4}, Case{8, 2, 2, 2, 4, 2},
                        Case{12, 3, 4, 1, 4, 3}, Case{12, 3, 4, 3, 4, 1}, Case{64, 8, 8, 1, 8, 8}}) {
    const Layout l = make_layout(c.world, c.tp, c.ep, c.etp);
    EXPECT_EQ(l.world, c.world);
    EXPECT_EQ(l.tp, c.tp);
    EXPECT_EQ(l.dp, c.dp);
    EXPECT_EQ(l.ep, c.ep);
    EXPECT_EQ(l.etp, c.etp);
    EXPECT_EQ(l.edp, c.edp);
  }
}

TEST(Layout, EveryRankHasOnePlaceInBothGrids) {
  for (const auto& [world, tp, ep, etp, dp, edp] :
       {Case{8, 2, 2, 2, 4, 2}, Case{8, 2, 4, 1, 4, 2}, Case{12, 3, 2, 3, 4, 2}, Case{16, 4, 2, 1, 4, 8}}) {
    const Layout l = make_layout(world, tp, ep, etp);
    int rank = 0;
    for (int d = 0; d < dp; ++d) {
      for (int t = 0; t < tp; ++t, ++rank) {
        EXPECT_EQ(coordinates_of(l, rank).tp, t) << world << " rank " << rank;
        EXPECT_EQ(coordinates_of(l, rank).dp, d) << world << " rank " << rank;
      }
    }
    EXPECT_EQ(rank, world);
    rank = 0;
    for (int x = 0; x < edp; ++x) {
      for (int e = 0; e < ep; ++e) {
        for (int t = 0; t < etp; ++t, ++rank) {
          EXPECT_EQ(coordinates_of(l, rank).edp, x) << world << " rank " << rank;
          EXPECT_EQ(coordinates_of(l, rank).ep, e) << world << " rank " << rank;
          EXPECT_EQ(coordinates_of(l, rank).etp, t) << world << " rank " << rank;
        }
      }
    }
    EXPECT_EQ(rank, world);
    EXPECT_THROW(coordinates_of(l, world), Error);
    EXPECT_THROW(coordinates_of(l, -1), Error);
  }
}

std::string refusal(int world, int tp, int ep, int etp) {
  try {
    make_layout(world, tp, ep, etp);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Layout, AnImpossibleOneNamesFieldsAndWhatWorks) {
  EXPECT_EQ(refusal(8, 3, 1, 1),
            "parallel.tp=3 does not divide world=8 ranks (world = tp * dp); layouts near it that work with world=8: "
            "tp=4 ep=1 etp=1, tp=2 ep=1 etp=1, tp=8 ep=1 etp=1");
  EXPECT_EQ(
      refusal(8, 2, 3, 1),
      "parallel.etp=1 * parallel.ep=3 does not divide world=8 ranks (world = etp * ep * edp); layouts near it that "
      "work with world=8: tp=2 ep=4 etp=1, tp=2 ep=2 etp=1, tp=2 ep=8 etp=1");
  EXPECT_EQ(
      refusal(8, 4, 4, 4),
      "parallel.etp=4 * parallel.ep=4 does not divide world=8 ranks (world = etp * ep * edp); layouts near it that "
      "work with world=8: tp=4 ep=4 etp=1, tp=4 ep=2 etp=4, tp=2 ep=4 etp=2");
  EXPECT_EQ(refusal(8, 4, 2, 2),
            "parallel.etp=2: must be 1 (an expert whole on one rank) or parallel.tp=4; layouts near it that work with "
            "world=8: tp=4 ep=2 etp=4, tp=4 ep=2 etp=1, tp=4 ep=1 etp=4");
  EXPECT_EQ(refusal(2, 0, 1, 1),
            "parallel.tp=0: must be at least 1; layouts near it that work with world=2: tp=1 ep=1 etp=1, tp=2 ep=1 "
            "etp=1, tp=1 ep=2 etp=1");
  EXPECT_EQ(refusal(1, 1, -2, 1),
            "parallel.ep=-2: must be at least 1; layouts near it that work with world=1: tp=1 ep=1 etp=1");
  EXPECT_EQ(
      refusal(1, 2, 1, 1),
      "parallel.tp=2 does not divide world=1 ranks (world = tp * dp); layouts near it that work with world=1: tp=1 "
      "ep=1 etp=1");
  EXPECT_EQ(refusal(0, 1, 1, 1), "world=0: a run has at least 1 rank");
  // Products past 2^31 are still products.
  EXPECT_EQ(refusal(65536, 65536, 65536, 65536).substr(0, 79),
            "parallel.etp=65536 * parallel.ep=65536 does not divide world=65536 ranks (world");
}

// Whatever was asked for, every layout that the message suggests is accepted.
TEST(Layout, SuggestionsWork) {
  for (int world = 1; world <= 24; ++world) {
    for (int tp = 1; tp <= 9; ++tp) {
      for (int ep = 1; ep <= 9; ++ep) {
        for (const int etp : {1, tp}) {
          std::string text = refusal(world, tp, ep, etp);
          if (text == "accepted") continue;
          std::size_t at = text.find("work with");
          ASSERT_NE(at, std::string::npos) << text;
          int offered = 0;
          while ((at = text.find("tp=", at)) != std::string::npos) {
            int t = 0, e = 0, x = 0;
            ASSERT_EQ(std::sscanf(text.c_str() + at, "tp=%d ep=%d etp=%d", &t, &e, &x), 3) << text;
            EXPECT_EQ(refusal(world, t, e, x), "accepted") << text;
            at = text.find("etp=", at) + 4;
            ++offered;
          }
          EXPECT_GE(offered, 1) << text;
        }
      }
    }
  }
}

}  // namespace
}  // namespace upcycle
