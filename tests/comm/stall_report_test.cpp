#include "parallel/comm/stall_report.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

const std::vector<std::string> hosts = {"a", "a", "b", "b"};

StallReport report(int rank, double seconds, const char* group, const char* op, std::uint64_t sequence,
                   std::vector<int> ranks, std::uint64_t bytes = 0) {
  return {rank, seconds, group, op, sequence, bytes, std::move(ranks)};
}

TEST(StallReport, NamesTheMissingRankAndWhereTheOthersWait) {
  const std::vector<StallReport> reports = {report(0, 599, "tp", "all_gather", 40, {0, 1}),
                                            report(1, 600.2, "dp", "reduce_scatter", 17, {1, 3}, 4 << 20),
                                            report(2, 500, "tp", "all_gather", 40, {2, 3})};
  EXPECT_EQ(stall_summary(reports, hosts),
            "rank 1 on a waited 600 s in dp reduce_scatter #17 (4 MiB): rank 3 on b did not arrive; rank 1 waiting in "
            "dp reduce_scatter #17; ranks 0, 2 waiting in tp all_gather #40");
}

TEST(StallReport, OnlyRanksThatAreWaitedForAreMissing) {
  const std::vector<StallReport> reports = {report(2, 9, "tp", "barrier", 1, {2, 3})};
  EXPECT_EQ(stall_summary(reports, hosts),
            "rank 2 on b waited 9 s in tp barrier #1 (0 bytes): rank 3 on b did not arrive; rank 2 waiting in tp "
            "barrier #1");
  const std::vector<StallReport> world = {report(0, 9, "world", "all_reduce", 1, {0, 1, 2, 3}, 2560)};
  EXPECT_EQ(stall_summary(world, hosts),
            "rank 0 on a waited 9 s in world all_reduce #1 (2.5 KiB): ranks 1-3 on a, b did not arrive; rank 0 waiting "
            "in world all_reduce #1");
}

TEST(StallReport, AllAreThereButTheirCallsDiffer) {
  const std::vector<StallReport> reports = {report(0, 9, "dp", "barrier", 3, {0, 1}),
                                            report(1, 8, "dp", "all_reduce", 3, {0, 1})};
  EXPECT_EQ(stall_summary(reports, hosts),
            "rank 0 on a waited 9 s in dp barrier #3 (0 bytes): no rank is missing, but their calls differ; rank 1 "
            "waiting in dp all_reduce #3; rank 0 waiting in dp barrier #3");
}

TEST(StallReport, AllAreThereAndNothingMoves) {
  const std::vector<StallReport> reports = {report(0, 9, "dp", "barrier", 3, {0, 1}),
                                            report(1, 8, "dp", "barrier", 3, {0, 1})};
  EXPECT_EQ(stall_summary(reports, hosts),
            "rank 0 on a waited 9 s in dp barrier #3 (0 bytes): all its ranks arrived, but it does not come to an end; "
            "is the network up?; ranks 0-1 waiting in dp barrier #3");
}

TEST(StallReport, RanksAtWorkAreNotBlamed) {
  const std::vector<StallReport> reports = {report(1, 9, "world", "barrier", 3, {0, 1, 2, 3})};
  EXPECT_EQ(
      stall_summary(reports, hosts, {0, 1, 3}),
      "rank 1 on a waited 9 s in world barrier #3 (0 bytes): rank 2 on b did not arrive; ranks 0, 3 still at work "
      "on files; rank 1 waiting in world barrier #3");
  EXPECT_EQ(missing_ranks(reports), (std::set<int>{0, 2, 3}));
}

TEST(StallReport, LongListsAreCut) {
  std::vector<StallReport> reports;
  std::vector<std::string> names;
  for (int r = 0; r < 40; ++r) {
    names.push_back(std::to_string(r / 4));
    if (r % 2 == 0) reports.push_back(report(r, 5, "tp", "barrier", static_cast<std::uint64_t>(r), {r, r + 1}));
  }
  const std::string text = stall_summary(reports, names);
  EXPECT_NE(text.find("ranks 1, 3, 5, 7"), std::string::npos) << text;
  EXPECT_NE(text.find("on 10 hosts, 0 among them did not arrive"), std::string::npos) << text;
  EXPECT_EQ(text.substr(text.size() - 10), "and 4 more") << text;
}

TEST(StallReport, TravelsAsBytes) {
  const StallReport r = report(3, 1.5, "edp", "a name longer than the twenty-four bytes", 1ull << 40, {3, 5, 9}, 77);
  const StallReport back = report_from_bytes(to_bytes(r));
  EXPECT_EQ(back.rank, 3);
  EXPECT_EQ(back.seconds, 1.5);
  EXPECT_EQ(back.group, "edp");
  EXPECT_EQ(back.op, r.op.substr(0, 23));
  EXPECT_EQ(back.sequence, 1ull << 40);
  EXPECT_EQ(back.bytes, 77u);
  EXPECT_EQ(back.group_ranks, r.group_ranks);
  std::vector<std::byte> cut = to_bytes(r);
  cut.pop_back();
  EXPECT_ANY_THROW(report_from_bytes(cut));
}

}  // namespace
}  // namespace upcycle
