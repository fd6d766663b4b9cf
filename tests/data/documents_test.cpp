#include "data/documents.h"
#include "tests/core/input_error.h"

#include "data/sampler.h"
#include "data/token_set_writer.h"
#include "tests/data/temporary_folder.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

using Ids = std::vector<std::int32_t>;

// Documents that end with 9, all but the last where `wrong`.
std::string write_set(const TemporaryFolder& folder, const std::string& name, std::int32_t last = 9) {
  TokenSetWriter writer(folder.file(name), 100);
  add_document(writer, Ids{1, 2, 9});
  add_document(writer, Ids{9});
  writer.end_document();  // empty, as other programs write them
  add_document(writer, Ids{3, 4, 5, 6, last});
  writer.finish();
  return folder.file(name);
}

Ids targets_of(const TokenSet& set, const DocumentRules& rules, std::int64_t first, std::int64_t count) {
  Ids out(static_cast<std::size_t>(count));
  read_targets(set, rules, first, count, out.data());
  return out;
}

TEST(Documents, WhatFollowsAnEndIsNotPredictedFromIt) {
  const TemporaryFolder folder;
  const TokenSet set = TokenSet::open(write_set(folder, "t"));
  DocumentRules rules{.eod = 9};
  EXPECT_EQ(targets_of(set, rules, 1, 8), (Ids{2, 9, 9, 3, 4, 5, 6, 9}));
  rules.eod_mask_loss = true;
  EXPECT_EQ(targets_of(set, rules, 1, 8), (Ids{2, 9, -1, -1, 4, 5, 6, 9}));
  for (std::int64_t i = 1; i < 9; ++i)
    EXPECT_EQ(targets_of(set, rules, i, 1)[0], targets_of(set, rules, 1, 8)[static_cast<std::size_t>(i - 1)]);
}

TEST(Documents, ALossMaskIsReadBesideTheTokens) {
  const TemporaryFolder folder;
  const std::string prefix = write_set(folder, "t");
  folder.write("t.mask", std::string("\1\0\1\1\0\1\1\0\0", 9));
  const TokenSet set = TokenSet::open(prefix);
  EXPECT_TRUE(set.has_mask());
  EXPECT_EQ(targets_of(set, {}, 1, 8), (Ids{-1, 9, 9, -1, 4, 5, -1, -1}));
  EXPECT_EQ(targets_of(set, {.eod_mask_loss = true, .eod = 9}, 1, 8), (Ids{-1, 9, -1, -1, 4, 5, -1, -1}));
  Sampler sampler({{prefix, 1}}, 100, 4, 1);
  for (std::int64_t g = 0; g < 2; ++g) {
    Ids tokens(4), targets(4);
    sampler.fill(g, tokens.data(), targets.data());
    EXPECT_EQ(targets, targets_of(set, {}, 1 + 4 * sampler.sample(g).sequence, 4));
  }
  const EvalWindows windows(set, 3);
  std::int64_t predicted = 0;
  for (std::int64_t w = 0; w < windows.count(); ++w) {
    Ids tokens(3), targets(3);
    predicted += windows.fill(w, tokens.data(), targets.data());
  }
  EXPECT_EQ(predicted, 4);
}

TEST(Documents, AMaskThatDoesNotFitIsRefused) {
  const TemporaryFolder folder;
  const std::string prefix = write_set(folder, "t");
  folder.write("t.mask", std::string(8, '\1'));
  EXPECT_TRUE(contains(input_error_of([&] { TokenSet::open(prefix); }), "t.mask: has 8 bytes"));
  folder.write("t.mask", std::string(9, '1'));
  EXPECT_TRUE(contains(input_error_of([&] { targets_of(TokenSet::open(prefix), {}, 1, 8); }), "t.mask: byte 1 is 49"));
}

TEST(Documents, ThatEndWithAnotherTokenAreRefused) {
  const TemporaryFolder folder;
  const DocumentRules rules{.reset_attention_mask = true, .eod = 9};
  check_document_ends(TokenSet::open(write_set(folder, "right")), rules);
  const TokenSet wrong = TokenSet::open(write_set(folder, "wrong", 7));
  EXPECT_TRUE(contains(input_error_of([&] { check_document_ends(wrong, rules); }),
                       "wrong: document 3 ends with token 7, expected 9"));
  check_document_ends(wrong, {.eod = 9});  // nobody asks
}

}  // namespace
}  // namespace upcycle
