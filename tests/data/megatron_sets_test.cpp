#include <gtest/gtest.h>

#include "data/sampler.h"
#include "tests/source_root.h"

namespace upcycle {
namespace {

// Token sets that Megatron-LM's own writer made (tests/data/megatron/make_sets.py): every type, several sequences in a
// document, an empty document, and the modes of multimodal sets.
TEST(MegatronSets, AreReadAsTheyAre) {
  for (const char* name : {"uint8", "uint16", "int32", "int64", "modes"}) {
    SCOPED_TRACE(name);
    const TokenSet set = TokenSet::open((tests_root() / "data/megatron" / name).string(), 101);
    EXPECT_EQ(set.documents(), 4);
    EXPECT_EQ(set.document_starts(), (std::vector<std::int64_t>{0, 4, 4, 7, 8}));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(set.tokens()));
    set.read(0, set.tokens(), ids.data());
    EXPECT_EQ(ids, (std::vector<std::int32_t>{7, 100, 9, 11, 12, 13, 9, 9}));
    Sampler sampler({{set.prefix(), 1}}, 101, 7, 1);
    std::vector<std::int32_t> tokens(7), targets(7);
    sampler.fill(0, tokens.data(), targets.data());
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), ids.begin()));
    EXPECT_TRUE(std::equal(targets.begin(), targets.end(), ids.begin() + 1));
  }
}

}  // namespace
}  // namespace upcycle
