#include "parallel/comm/timeout_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace upcycle {
namespace {

const std::vector<std::string> hosts = {"a", "a", "b", "b"};

TEST(TimeoutReport, SectionsTravel) {
  const std::vector<RankSection> sent = {{2, "waits", "one\ntwo\n"}, {3, "", ""}};
  const std::vector<RankSection> got = sections_from_bytes(to_bytes(sent));
  ASSERT_EQ(got.size(), 2U);
  EXPECT_EQ(got[0].rank, 2);
  EXPECT_EQ(got[0].line, "waits");
  EXPECT_EQ(got[0].text, "one\ntwo\n");
  EXPECT_EQ(got[1].rank, 3);
  EXPECT_TRUE(sections_from_bytes({}).empty());
  std::vector<std::byte> cut = to_bytes(sent);
  cut.pop_back();
  EXPECT_THROW(sections_from_bytes(cut), Error);
}

TEST(TimeoutReport, NamesEveryRankAndWhoIsNotKnownOf) {
  const std::string text =
      timeout_report("rank 0 waited", {{1, "stopped", "stack: none\n"}, {0, "waits", "calls\n"}}, hosts);
  EXPECT_EQ(text.substr(text.find('\n') + 1),
            "rank 0 waited\n\nrank 0 on a: waits\nrank 1 on a: stopped\n"
            "ranks 2-3 on b: no rank there answers, nothing is known of what they do\n"
            "\n== rank 0 on a ==\ncalls\n\n== rank 1 on a ==\nstack: none\n");
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(TimeoutReport, ReplacesAnOlderOneButNotAnotherRanks) {
  const std::string folder = std::filesystem::temp_directory_path() / ("timeout_report." + std::to_string(getpid()));
  EXPECT_EQ(write_report(folder, 0, 0, "no folder"), "");
  std::filesystem::create_directory(folder);
  const std::time_t now = std::time(nullptr);
  EXPECT_EQ(write_report(folder, 0, now - 100, "first"), folder + "/timeout_report.txt");
  EXPECT_EQ(write_report(folder, 3, now - 100, "the other side's"), folder + "/timeout_report_rank3.txt");
  EXPECT_EQ(text_of(folder + "/timeout_report.txt"), "first");
  EXPECT_EQ(text_of(folder + "/timeout_report_rank3.txt"), "the other side's");
  EXPECT_EQ(write_report(folder, 3, now + 100, "of the next run"), folder + "/timeout_report.txt");
  EXPECT_EQ(text_of(folder + "/timeout_report.txt"), "of the next run");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace upcycle
