#include <fmt/format.h>

#include <cmath>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// Commands that read a model, over ranks: what one rank prints, on every layout.
namespace upcycle {
namespace {

using nlohmann::json;

struct InferenceRanks : ::testing::Test {
  SmallRun small;
  // Odd sizes: the last tp rank has a row of padding, and a whole context has one row more than tp divides.
  const std::string run = small.train(
      "run",
      {{"model",
        {{"num_local_experts", 4}, {"vocab_size", 259}, {"max_position_embeddings", 127}, {"moe_every_n_layers", 2}}},
       {"train", {{"steps", 2}}}});
  struct Layout {
    int ranks;
    Words words;
  };
  const std::vector<Layout> layouts = {{2, {"--parallel.tp=2"}},
                                       {2, {"--parallel.ep=2"}},
                                       {2, {"--parallel.tp=2", "--parallel.etp=2"}},
                                       {4, {"--parallel.tp=2", "--parallel.ep=4"}}};

  json of_ranks(const Layout& layout, Words words) const {
    words.insert(words.end(), layout.words.begin(), layout.words.end());
    const Outcome o = run_ranks(layout.ranks, words);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    const json j = json::parse(o.out, nullptr, false);
    EXPECT_TRUE(j.is_object()) << o.out;
    return j;
  }
};

// fp32 sums over tp are taken in another order.
void expect_near(const json& found, const json& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(found[i].get<double>(), expected[i].get<double>(), 2e-6 * (1 + std::abs(expected[i].get<double>())))
        << what << " " << i;
}

TEST_F(InferenceRanks, ScoresAreThoseOfOneRank) {
  std::vector<std::int32_t> few, whole;
  for (int i = 0; i < 127; ++i) whole.push_back(i * 41 % 259);
  few.assign(whole.begin(), whole.begin() + 6);
  for (const auto& ids : {few, whole}) {
    const Words words{"score", run, "--ids=" + small.write_ids("ids.json", ids), "--json"};
    const json one = json_of(words);
    EXPECT_EQ(one["logits_last"].size(), 259u);
    EXPECT_EQ(one["nll"].size(), ids.size() - 1);
    for (const Layout& layout : layouts) {
      const json found = of_ranks(layout, words);
      for (const char* list : {"nll", "logits_last"})
        expect_near(found[list], one[list],
                    fmt::format("{} {} of {} ids", fmt::join(layout.words, " "), list, ids.size()));
    }
  }
}

TEST_F(InferenceRanks, LossesAreThoseOfOneRank) {
  const Words words{"eval",  run, "--data=" + small.file("valid"), "--seq-length=31", "--batch=2", "--tokenizer=bytes",
                    "--json"};
  const json one = json_of(words);
  for (const char* key : {"tokens", "bytes"}) EXPECT_GT(one[key], 0) << key;
  for (const Layout& layout : layouts) {
    const json found = of_ranks(layout, words);
    for (const char* key : {"tokens", "bytes"}) EXPECT_EQ(found[key], one[key]) << key;
    EXPECT_NEAR(found["loss"].get<double>(), one["loss"].get<double>(), 1e-6)
        << fmt::format("{}", fmt::join(layout.words, " "));
  }
}

TEST_F(InferenceRanks, WhatDoesNotFitIsOneLine) {
  const std::string ids = small.write_ids("ids.json", {1, 2, 3}), bad = small.write_ids("bad.json", {1, 300});
  const auto refused = [&](int ranks, const Words& words, const Words& named) {
    expect_one_line(run_ranks(ranks, words), named);
  };
  refused(2, {"score", run, "--ids=" + bad}, {"bad.json: ids[1]: found 300"});
  refused(2, {"score", small.file("none"), "--ids=" + ids}, {"no such folder"});
  refused(2, {"score", run, "--ids=" + ids, "--parallel.tp=3"}, {"parallel.tp=3 does not divide world=2"});
  refused(4, {"score", run, "--ids=" + ids, "--parallel.tp=4"},
          {run, "num_key_value_heads = 2", "world=4 for this model: tp=2"});
  refused(3, {"eval", run, "--data=" + small.file("valid"), "--parallel.ep=3"},
          {"num_local_experts = 4", "parallel.ep"});
  refused(2, {"eval", run, "--data=" + small.file("none")}, {"none"});
  const Part one{1, {UPCYCLE_BINARY, "score", run, "--ids=" + ids}},
      other{1, {UPCYCLE_BINARY, "score", run, "--ids=" + bad}};
  expect_one_line(run_parts({one, other}),
                  {"command: found score", "bad.json on rank 1, expected score", "one command"});
}

}  // namespace
}  // namespace upcycle
