#include "launch/doctor_verdict.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace upcycle {
namespace {

std::vector<RankHealth> well(std::size_t n) {
  RankHealth h;
  h.product_flops = 1e12;
  h.link = h.all_to_all = 1e9;
  h.write = 1e8;
  h.folder_free = 1e12;
  h.cores = 2, h.host_cores = 64;
  return std::vector<RankHealth>(n, h);
}

// The verdict of rank 1 of four, the others being well.
std::string verdict(const std::function<void(RankHealth&)>& change) {
  std::vector<RankHealth> ranks = well(4);
  change(ranks[1]);
  const std::size_t ill = judge(ranks, 0.5);
  EXPECT_EQ(ill, ranks[1].verdict == "well" ? 0u : 1u);
  for (const std::size_t other : {0, 2, 3}) EXPECT_EQ(ranks[other].verdict, "well");
  return ranks[1].verdict;
}

TEST(DoctorVerdict, NamesWhatIsIll) {
  EXPECT_EQ(verdict([](RankHealth&) {}), "well");
  EXPECT_EQ(verdict([](RankHealth& h) { h.product_flops = 0.51e12; }), "well");
  EXPECT_EQ(verdict([](RankHealth& h) { h.product_flops = 0.4e12; }), "crawls: 40 % of the median rank's products");
  EXPECT_EQ(verdict([](RankHealth& h) { h.link = 0.1e9; }), "crawls: 10 % of the median rank's link");
  EXPECT_EQ(verdict([](RankHealth& h) { h.sustained = 0.3; }), "crawls: 30 % of its speed is left under load");
  EXPECT_EQ(verdict([](RankHealth& h) { h.write = 1e6; }), "crawls: writes 1.0 MB/s");
  EXPECT_EQ(verdict([](RankHealth& h) { h.threads = 4; }), "crawls: 4 threads on 2 cores");
  EXPECT_EQ(verdict([](RankHealth& h) { h.ranks_on_host = 65; }),
            "crawls: 65 ranks of 1 threads on a host of 64 cores");
  EXPECT_EQ(verdict([](RankHealth& h) { h.products_right = false; }), "fails: matrix products are wrong");
  EXPECT_EQ(verdict([](RankHealth& h) { h.exchange_right = false, h.link = 0; }),
            "fails: what other ranks sent arrived as something else");
  EXPECT_EQ(verdict([](RankHealth& h) { h.folder_failure = "read only", h.write = h.folder_free = 0; }),
            "fails: read only");
  EXPECT_EQ(verdict([](RankHealth& h) { h.folder_free = 5 << 20; }), "fails: 5 MiB are free to save runs in");
}

TEST(DoctorVerdict, SaysWhereRanksDiffer) {
  const nlohmann::ordered_json one{{"rank", 0},     {"mpi", "a"},         {"hdf5", "b"},          {"instructions", "c"},
                                   {"gpu", "none"}, {"file_system", "d"}, {"clock_offset_s", 0.0}};
  EXPECT_TRUE(differences({one, one}).empty());
  nlohmann::ordered_json other = one;
  other.update({{"rank", 1}, {"hdf5", "x"}, {"clock_offset_s", -2.0}});
  EXPECT_EQ(differences({one, other}),
            (std::vector<std::string>{"hdf5 of rank 1 is \"x\", of rank 0 \"b\"",
                                      "the clock of rank 1 is -2.0 s from rank 0's: logs will not line up"}));
}

}  // namespace
}  // namespace upcycle
