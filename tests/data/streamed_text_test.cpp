#include "data/streamed_text.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

TEST(StreamedText, EndsBetweenCharacters) {
  const auto tokenizer = open_tokenizer("bytes");
  const std::string text = "a\xc3\xa9\xe4\xb8\x96\xf0\x9f\x99\x82z";
  const std::vector<std::string> expected = {"a", "", "\xc3\xa9",         "", "", "\xe4\xb8\x96", "",
                                             "",  "", "\xf0\x9f\x99\x82", "z"};
  StreamedText streamed(*tokenizer, tokenizer->encode("before"));
  for (std::size_t i = 0; i < text.size(); ++i)
    EXPECT_EQ(streamed.add(static_cast<unsigned char>(text[i])), expected[i]) << i;
  EXPECT_EQ(streamed.finish(), "");
}

// The end shows what never became a character; bytes that begin none are not waited for.
TEST(StreamedText, LosesNothing) {
  const auto tokenizer = open_tokenizer("bytes");
  StreamedText streamed(*tokenizer, {});
  EXPECT_EQ(streamed.add(0x80), "\x80");
  EXPECT_EQ(streamed.add(0xe4), "");
  EXPECT_EQ(streamed.add(258), "");  // no token of it
  EXPECT_EQ(streamed.finish(), "\xe4");
  const std::vector<std::int32_t> prompt = tokenizer->encode("one "), added = tokenizer->encode("two");
  EXPECT_EQ(added_text(*tokenizer, prompt, added), "two");
}

}  // namespace
}  // namespace upcycle
