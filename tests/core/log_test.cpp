#include "core/log.h"

#include <gtest/gtest.h>

#include "core/abort.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

std::string printed_as_rank(int rank) {
  set_log_rank(rank);
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  log_info("step {} loss {:.2f}", 3, 1.5);
  log_warn("{} rounds", 2);
  log_line(LogLevel::Info, "100 % of {}");  // text is not a format
  set_log_rank(0);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, Rank0PrintsInformationAllPrintWarnings) {
  EXPECT_EQ(printed_as_rank(0), "step 3 loss 1.50\nwarning: 2 rounds\n100 % of {}\n");
  EXPECT_EQ(printed_as_rank(3), "warning (rank 3): 2 rounds\n");
}

TEST(AbortJobDeathTest, PrintsAndEndsThroughTheHook) {
  EXPECT_EXIT(abort_job("it broke"), ::testing::ExitedWithCode(1), "^upcycle: it broke\n$");
  EXPECT_EXIT(
      {
        set_abort_hook([](int code) { std::_Exit(40 + code); });
        abort_job("it broke");
      },
      ::testing::ExitedWithCode(41), "it broke");
}

TEST(Suggest, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("trian", "train"), 1);  // a swap is one edit
  EXPECT_EQ(edit_distance("warmup_step", "warmup_steps"), 1);
}

TEST(Suggest, NearestOrNone) {
  const std::vector<std::string> words{"tokenize", "train", "import", "export"};
  EXPECT_EQ(nearest("tokenise", words), "tokenize");
  EXPECT_EQ(nearest("exprot", words), "export");
  EXPECT_EQ(nearest("train", words), "train");
  EXPECT_EQ(nearest("qqqqqqqq", words), "");
  EXPECT_EQ(nearest("", words), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 't'), words), "");
}

TEST(Suggest, QuotedTextStaysOnALine) {
  EXPECT_EQ(quote_text("a\tb\n"), "'a\\x09b\\x0a'");
  EXPECT_EQ(quote_text("\xc3\xa9"), "'\xc3\xa9'");
  const std::string cut = quote_text(std::string(79, 'a') + "\xe2\x82\xac\xe2\x82\xac");
  EXPECT_EQ(cut, "'" + std::string(79, 'a') + "...'");  // the euro sign is not cut in two
  EXPECT_LT(quote_text(std::string(10000, '\x80')).size(), 100u);
}

}  // namespace
}  // namespace upcycle
