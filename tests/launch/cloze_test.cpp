#include "launch/cloze_items.h"

#include <fmt/core.h>

#include <cmath>
#include <set>

#include "core/rng.h"
#include "data/token_set_writer.h"
#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"
#include "tests/core/input_error.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

using nlohmann::json;

// Documents of these lengths; no id occurs twice.
TokenSet counting_set(const TemporaryFolder& folder, const std::vector<std::int64_t>& lengths) {
  TokenSetWriter writer(folder.file("set"), 60000);
  std::int32_t next = 0;
  for (const std::int64_t n : lengths) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n; ++i) ids.push_back(next++);
    add_document(writer, ids);
  }
  writer.finish();
  return TokenSet::open(folder.file("set"));
}

TEST(ClozeItems, ArePiecesBehindTheContextAndOfOtherDocuments) {
  const TemporaryFolder folder;
  const TokenSet set = counting_set(folder, {100, 3, 0, 17, 64, 12, 200});
  ClozeRule rule{.items = 0, .candidates = 4, .context = 10, .length = 5, .seed = 1};
  const std::vector<std::int64_t> starts = set.document_starts();
  const auto document = [&](std::int64_t token) {
    return std::upper_bound(starts.begin(), starts.end(), token) - starts.begin() - 1;
  };
  rule.items = 18 + 1 + 10 + 38;  // all that fit
  std::set<std::int64_t> seen;
  for (const ClozeItem& item : draw_cloze(set, rule)) {
    const std::int64_t place = item.candidates[0];
    EXPECT_EQ(item.context, place - 10);
    EXPECT_EQ(document(item.context), document(place + 4));
    EXPECT_EQ((item.context - starts[static_cast<std::size_t>(document(place))]) % 5, 0);
    EXPECT_TRUE(seen.insert(place).second) << "drawn twice";
    ASSERT_EQ(item.candidates.size(), 4u);
    EXPECT_EQ(std::set(item.candidates.begin(), item.candidates.end()).size(), 4u);
    for (std::size_t c = 1; c < 4; ++c) {
      EXPECT_NE(document(item.candidates[c]), document(place));
      EXPECT_EQ(document(item.candidates[c]), document(item.candidates[c] + 4));
    }
  }
  rule.items = 20;
  const auto places = [&](std::int64_t seed) {
    rule.seed = seed;
    std::vector<std::int64_t> all;
    for (const ClozeItem& item : draw_cloze(set, rule))
      all.insert(all.end(), item.candidates.begin(), item.candidates.end());
    return all;
  };
  EXPECT_EQ(places(1), places(1));
  EXPECT_NE(places(1), places(2));
  rule.items = 68;
  const std::string refused = input_error_of([&] { draw_cloze(set, rule); });
  for (const char* part : {"set.bin", "room for 67 items", "--items = 68"})
    EXPECT_NE(refused.find(part), std::string::npos) << refused;
}

TEST(ClozeItems, BelongToTheDocumentOrPieceOfTheirFirstToken) {
  const TemporaryFolder folder;
  const TokenSet set = counting_set(folder, {100, 0, 20});
  const std::vector<ClozeItem> items = {{0, {}}, {39, {}}, {40, {}}, {99, {}}, {100, {}}};
  EXPECT_EQ(documents_of(items, set, 0), (std::vector<std::int64_t>{0, 0, 0, 0, 2}));
  EXPECT_EQ(documents_of(items, set, 40), (std::vector<std::int64_t>{0, 0, 1, 2, 4}));
}

TEST(ClozeItems, OfOneDocumentAreOtherPlacesAndNeverAlike) {
  const TemporaryFolder folder;
  const TokenSet set = counting_set(folder, {40, 9});
  const ClozeRule rule{.items = 6, .candidates = 6, .context = 10, .length = 5, .seed = 3};
  for (const ClozeItem& item : draw_cloze(set, rule)) {
    const std::set<std::int64_t> all(item.candidates.begin(), item.candidates.end());
    EXPECT_EQ(all, (std::set<std::int64_t>{10, 15, 20, 25, 30, 35}));
  }
  TokenSetWriter writer(folder.file("alike"), 10);
  for (int d = 0; d < 3; ++d) add_document(writer, std::vector<std::int32_t>(50, 7));
  writer.finish();
  const std::string refused = input_error_of([&] { draw_cloze(TokenSet::open(folder.file("alike")), rule); });
  for (const char* part : {"found 1 different", "--candidates = 6"})
    EXPECT_NE(refused.find(part), std::string::npos) << refused;
}

TEST(ClozeItems, CreditsAndScore) {
  EXPECT_EQ(cloze_credit(std::vector<double>{-1, -2, -3}), 1);
  EXPECT_EQ(cloze_credit(std::vector<double>{-2, -1, -3}), 0);
  EXPECT_EQ(cloze_credit(std::vector<double>{-1, -1, -3, -1}), 1.0 / 3);
  EXPECT_EQ(cloze_credit(std::vector<double>{-2, -1, -1}), 0);
  const ClozeScore s = cloze_score(std::vector<double>{1, 1, 0, 1, 0.5, 1, 0, 0}, 4);
  EXPECT_DOUBLE_EQ(s.accuracy, 4.5 / 8);
  EXPECT_DOUBLE_EQ(s.corrected, (4.5 / 8 - 0.25) / 0.75);
  EXPECT_NEAR(s.standard_error, std::sqrt((4.25 / 8 - 4.5 / 8 * 4.5 / 8) / 8) / 0.75, 1e-12);
}

// A text that tells what follows: each document has three letters of its own, in random order.
struct Letters : ::testing::Test {
  SmallRun small;
  Letters() {
    std::string text;
    for (std::uint64_t d = 0; d < 24; ++d) {
      for (std::uint64_t i = 0; i < 160; ++i) text += static_cast<char>('A' + 3 * (d % 8) + rng::below(3, 5, d, i));
      text += "\n---\n";
    }
    EXPECT_EQ(run_upcycle({"tokenize", "--tokenizer=bytes", "--doc-separator=---", "--output=" + small.file("letters"),
                           small.folder.write("letters.txt", text)})
                  .exit_code,
              0);
    small.config["data"]["train"] = small.file("letters");
  }
  Words cloze(const std::string& model, const Words& more = {}) const {
    Words words{"cloze",       model,   "--data=" + small.file("letters"), "--context=10", "--length=6",
                "--items=120", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(Letters, AreKnownToATrainedModelAndGuessedByAnother) {
  const json trained = json_of(cloze(small.train("trained", {{"train", {{"steps", 60}}}})));
  EXPECT_GT(trained["corrected"], 0.8);
  EXPECT_LT(trained["standard_error"], 0.1);
  const json random =
      json_of(cloze(small.train("random", {{"train", {{"steps", 1}, {"lr", 0}, {"min_lr", 0}}}}), {"--items=300"}));
  EXPECT_EQ(random["correct"].size(), 300u);
  EXPECT_EQ(random["documents"].size(), 300u);
  EXPECT_GT(random["standard_error"], 0.02);
  EXPECT_LT(std::abs(double(random["corrected"])), 3 * double(random["standard_error"]));
}

// What `score` says of context and candidates, one sequence at a time.
TEST_F(Letters, ChoicesAreThoseOfScore) {
  const std::string run = small.train("run", {{"train", {{"steps", 8}}}, {"model", {{"num_local_experts", 4}}}});
  const ClozeRule rule{.items = 8, .candidates = 3, .context = 10, .length = 6, .seed = 4};
  const json found = json_of(cloze(run, {"--items=8", "--candidates=3", "--seed=4"}));
  const TokenSet set = TokenSet::open(small.file("letters"));
  const std::vector<ClozeItem> items = draw_cloze(set, rule);
  double right = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::vector<double> sums;
    for (const std::int64_t candidate : items[i].candidates) {
      std::vector<std::int32_t> ids(16);
      set.read(items[i].context, 10, ids.data());
      set.read(candidate, 6, ids.data() + 10);
      const json nll = json_of({"score", run, "--ids=" + small.write_ids("ids.json", ids), "--json"})["nll"];
      sums.push_back(0);
      for (std::size_t t = 9; t < 15; ++t) sums.back() -= nll[t].get<double>();
    }
    EXPECT_EQ(found["correct"][i], cloze_credit(sums)) << i;
    right += cloze_credit(sums);
  }
  EXPECT_NEAR(double(found["accuracy"]), right / 8, 1e-12);
  EXPECT_NEAR(double(found["corrected"]), (right / 8 - 1.0 / 3) / (2.0 / 3), 1e-12);

  const json one = json_of(cloze(run));
  EXPECT_EQ(json_of(cloze(run, {"--batch=7"})), one);
  for (const char* layout : {"--parallel.tp=2", "--parallel.ep=2"}) {
    const Outcome o = run_ranks(2, cloze(run, {layout, "--batch=9"}));
    EXPECT_EQ(json::parse(o.out, nullptr, false), one) << layout << o.err;
  }
}

TEST_F(Letters, TooSmallASetIsOneLine) {
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}});
  expect_one_line(run_upcycle(cloze(run, {"--items=1000"})), {"letters.bin", "room for 600 items", "--items = 1000"});
  expect_one_line(run_upcycle(cloze(run, {"--context=100", "--length=29"})),
                  {"--context and --length", "100 and 29", "max_position_embeddings = 128"});
  expect_one_line(run_upcycle(cloze(run, {"--candidates=1"})), {"--candidates", "found 1", "2 or more"});
  expect_one_line(run_ranks(2, cloze(run, {"--items=1000"})), {"letters.bin", "room for 600 items"});
}

}  // namespace
}  // namespace upcycle
