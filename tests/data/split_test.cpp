#include "data/split.h"
#include "tests/core/input_error.h"

#include "data/sampler.h"
#include "data/token_set_writer.h"
#include "tests/data/temporary_folder.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

using Ids = std::vector<std::int32_t>;

// Document d is d + 1 tokens, all of them d.
TokenSet documents(const TemporaryFolder& folder, std::int32_t count) {
  TokenSetWriter writer(folder.file("t"), 100);
  for (std::int32_t d = 0; d < count; ++d) add_document(writer, Ids(static_cast<std::size_t>(d) + 1, d));
  writer.finish();
  return TokenSet::open(folder.file("t"));
}

TEST(Split, DocumentsFallToOnePartEach) {
  const TemporaryFolder folder;
  std::vector<std::int64_t> found;
  for (const SplitPart part : {SplitPart::Train, SplitPart::Valid, SplitPart::Test}) {
    TokenSet set = documents(folder, 10);
    keep_part(set, parse_split("70,20,10", "t"), part);
    found.push_back(set.documents());
    Ids ids(static_cast<std::size_t>(set.tokens()));
    set.read(0, set.tokens(), ids.data());
    const std::vector<std::int64_t> starts = set.document_starts();
    EXPECT_EQ(starts.front(), 0);
    EXPECT_EQ(starts.back(), set.tokens());
    const std::int32_t first = part == SplitPart::Train ? 0 : part == SplitPart::Valid ? 7 : 9;
    EXPECT_EQ(ids.front(), first);
    EXPECT_EQ(ids.back(), first + static_cast<std::int32_t>(set.documents()) - 1);
  }
  EXPECT_EQ(found, (std::vector<std::int64_t>{7, 2, 1}));
}

// round(0.969 * 50) = 48 and round(0.999 * 50) = 50 in Python; halves go to the even number.
TEST(Split, RoundsAsMegatron) {
  const TemporaryFolder folder;
  const auto kept = [&](std::int32_t count, const char* split, SplitPart part) {
    TokenSet set = documents(folder, count);
    keep_part(set, parse_split(split, "t"), part);
    return set.documents();
  };
  EXPECT_EQ(kept(50, "969,30,1", SplitPart::Train), 48);
  EXPECT_EQ(kept(50, "969,30,1", SplitPart::Valid), 2);
  EXPECT_EQ(kept(5, "1,1", SplitPart::Train), 2);
  EXPECT_EQ(kept(7, "1,1", SplitPart::Train), 4);
  EXPECT_TRUE(contains(input_error_of([&] { (void)kept(50, "969,30,1", SplitPart::Test); }), "none is for test"));
  EXPECT_TRUE(contains(input_error_of([&] { (void)kept(5, "1,0", SplitPart::Valid); }), "none is for valid"));
}

TEST(Split, IsOfTwoOrThreeShares) {
  for (const char* wrong : {"1", "1,2,3,4", "a,b", "1,-1", "0,1", "1,", ",1", "1,nan", "98 2"})
    EXPECT_TRUE(contains(input_error_of([&] { (void)parse_split(wrong, "run.json"); }), "run.json: data.split"))
        << wrong;
  EXPECT_TRUE(parse_split("", "").whole());
  EXPECT_TRUE(contains(input_error_of([] { (void)parse_split_part("all", "--part"); }), "--part: found 'all'"));
}

TEST(Split, TheSamplerTakesTheFirstPart) {
  const TemporaryFolder folder;
  (void)documents(folder, 10);
  Sampler sampler({{folder.file("t"), 1}}, 100, 5, 1, {}, parse_split("7,3", "t"));
  EXPECT_EQ(sampler.sequences(0), (28 - 1) / 5);
  for (std::int64_t g = 0; g < sampler.sequences(0); ++g) {
    Ids tokens(5), targets(5);
    sampler.fill(g, tokens.data(), targets.data());
    for (const std::int32_t target : targets) EXPECT_LT(target, 7);
  }
}

}  // namespace
}  // namespace upcycle
