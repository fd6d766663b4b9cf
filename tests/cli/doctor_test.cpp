#include <gtest/gtest.h>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

// Whatever this machine is like: the exit code is that of the verdicts, and every rank has one.
TEST(Doctor, EveryRankHasAVerdict) {
  const SmallRun small;
  const std::string folder = small.folder.path.string();
  const auto before = files_below(folder);
  for (const int ranks : {1, 2}) {
    const Outcome o = run_ranks(
        ranks, {"doctor", "--seconds=0.2", "--least-share=0", "--dtype=fp32", "--json", "--folder=" + folder});
    const json j = json::parse(o.out, nullptr, false);
    ASSERT_FALSE(j.is_discarded()) << o.out << o.err;
    ASSERT_EQ(j["ranks"].size(), static_cast<std::size_t>(ranks));
    EXPECT_EQ(o.exit_code, j["ill"].get<int>() > 0 ? 1 : 0) << o.out;
    for (const json& r : j["ranks"]) {
      EXPECT_TRUE(r["products_right"]);
      EXPECT_TRUE(r["exchange_right"]);
      EXPECT_EQ(r["folder_failure"], "");
      EXPECT_GT(r["product_flops"].get<double>(), 0);
      EXPECT_GT(r["write_bytes_per_s"].get<double>(), 0);
      for (const char* key : {"link_bytes_per_s", "all_to_all_bytes_per_s"})
        EXPECT_EQ(r[key].get<double>() > 0, ranks > 1) << key;
      for (const char* key : {"mpi", "hdf5", "processor", "instructions", "file_system", "verdict"})
        EXPECT_FALSE(r[key].get<std::string>().empty()) << key;
    }
  }
  EXPECT_EQ(files_below(folder), before) << "nothing is left behind";
}

TEST(Doctor, AFolderThatCanNotBeWrittenFails) {
  const Outcome o = run_upcycle({"doctor", "--seconds=0.1", "--least-share=0", "--folder=/proc"});
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_NE(o.out.find("fails: "), std::string::npos) << o.out;
  EXPECT_NE(o.out.find("ill: 1 of 1 ranks"), std::string::npos) << o.out;
  expect_one_line(run_upcycle({"doctor", "--seconds=0"}), {"--seconds", "0"});
  expect_one_line(run_upcycle({"doctor", "--least-share=2"}), {"--least-share", "2"});
}

}  // namespace
}  // namespace upcycle
