#include "data/utf8.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

TEST(Utf8, AcceptsAndRefusesByTheStandard) {
  for (const std::string text :
       {"", "plain ascii, long enough for eight", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
        "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "12345678\xc3\xa9"}) {
    EXPECT_EQ(valid_utf8(text), text.size()) << text;
    EXPECT_EQ(unfinished_utf8(text), 0u) << text;
  }
  const struct {
    std::string text;
    std::size_t valid, unfinished;
  } cases[] = {{"\x80", 0, 0},
               {"\xc0\x80", 0, 0},
               {"\xc1\xbf", 0, 0},
               {"\xe0\x9f\xbf", 0, 0},
               {"\xed\xa0\x80", 0, 0},
               {"\xf0\x8f\xbf\xbf", 0, 0},
               {"\xf4\x90\x80\x80", 0, 0},
               {"\xf5\x80\x80\x80", 0, 0},
               {"\xff", 0, 0},
               {"\xc3", 0, 1},
               {"a\xc3(", 1, 0},
               {"ab\xe2\x82", 2, 2},
               {"\xf0\x9f\x99", 0, 3},
               {"12345678\xe9"
                "12345678",
                8, 0}};
  for (const auto& [text, valid, unfinished] : cases) {
    EXPECT_EQ(valid_utf8(text), valid) << text;
    EXPECT_EQ(unfinished_utf8(text), unfinished) << text;
  }
}

// The results of Python's bytes.decode("utf-8", "replace").
TEST(Utf8, ReplacesAsPython) {
  const std::string r = "\xef\xbf\xbd";
  const std::pair<std::string, std::string> cases[] = {{"a\xff"
                                                        "b",
                                                        "a" + r + "b"},
                                                       {"\xe2\x82", r},
                                                       {"\xe2\x82(", r + "("},
                                                       {"\xf0\x9f\x99z\xc0\x80", r + "z" + r + r},
                                                       {"\xed\xa0\x80", r + r + r},
                                                       {"ok \xe2\x82\xac", "ok \xe2\x82\xac"}};
  for (const auto& [broken, mended] : cases) {
    std::int64_t replaced = 0;
    EXPECT_EQ(replaced_utf8(broken, replaced), mended);
    EXPECT_EQ(replaced, std::count(mended.begin(), mended.end(), '\xbd'));
  }
}

TEST(Utf8, HalfSurrogatePairsInJsonAreReplaced) {
  std::int64_t replaced = 0;
  EXPECT_EQ(replaced_surrogates(R"("\ud83d\ude42 \\ud800 \ud800 \udc00\ud800 \u00e9 \ud8)", replaced),
            R"("\ud83d\ude42 \\ud800 \ufffd \ufffd\ufffd \u00e9 \ud8)");
  EXPECT_EQ(replaced, 3);
}

}  // namespace
}  // namespace upcycle
