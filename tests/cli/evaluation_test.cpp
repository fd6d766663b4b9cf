#include <fmt/core.h>

#include <set>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

json evaluation(const std::string& run) {
  std::ifstream in(run + "/metrics.jsonl");
  json last;
  for (std::string line; std::getline(in, line);)
    if (const json j = json::parse(line); j.contains("eval_loss")) last = j;
  EXPECT_FALSE(last.is_null()) << run;
  return last;
}

// Evaluation covers a number of the run's batches, whatever a rank's microbatches are, and its loss is the same. The
// weights do not move, so that they are the same in all of these runs.
TEST(Evaluation, IsOfTheSameSequencesOnEveryLayoutAndMicrobatch) {
  const SmallRun small;
  const json still = {{"train", {{"steps", 1}, {"lr", 0}, {"min_lr", 0}, {"eval_steps", 1}, {"global_batch_size", 8}}}};
  struct Case {
    int micro, tp, ranks;
  };
  json first;
  for (const Case& c :
       {Case{1, 1, 1}, Case{2, 1, 1}, Case{4, 1, 1}, Case{8, 1, 1}, Case{1, 1, 2}, Case{4, 1, 2}, Case{2, 2, 2}}) {
    json config = still;
    config["train"]["micro_batch_size"] = c.micro;
    config["parallel"]["tp"] = c.tp;
    const std::string name = fmt::format("micro{}_tp{}_ranks{}", c.micro, c.tp, c.ranks);
    const json found = evaluation(small.train(name, config, c.ranks));
    EXPECT_EQ(found["eval_tokens"], 8 * 32) << name;
    if (first.is_null()) first = found;
    const double expected = first["eval_loss"];
    EXPECT_NEAR(found["eval_loss"].get<double>(), expected, 1e-6 * expected) << name;
  }
}

// Each predicted token counts for the document in which it lies, by the losses that `score` gives of it; the sums are
// the totals, also where windows are cut inside documents and replicas share them.
TEST(Evaluation, DocumentsAreThePartsOfTheWhole) {
  const SmallRun small;
  const std::string run = small.train("run");
  const std::vector<std::string> texts = {"The cat sat on", "a", "the mat for 5 hours.", "A dog."};
  std::string text;
  for (const std::string& t : texts) text += t + "\n---\n";
  EXPECT_EQ(run_upcycle({"tokenize", "--tokenizer=bytes", "--doc-separator=---", "--output=" + small.file("documents"),
                         small.folder.write("documents.txt", text)})
                .exit_code,
            0);
  std::vector<std::int32_t> ids;
  for (const std::string& t : texts) {
    ids.insert(ids.end(), t.begin(), t.end());
    ids.push_back(256);  // end of document
  }
  const json nll = json_of({"score", run, "--ids=" + small.write_ids("ids.json", ids), "--json"})["nll"];
  const std::vector<std::string> words{"eval",   run,          "--data=" + small.file("documents"), "--tokenizer=bytes",
                                       "--json", "--documents"};
  const auto with = [&](const std::vector<std::string>& more) {
    auto all = words;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const json whole = json_of(with({"--seq-length=64"}));
  ASSERT_EQ(whole["documents"].size(), texts.size());
  std::size_t token = 0;
  for (std::size_t d = 0; d < texts.size(); ++d) {
    const std::size_t predicted = texts[d].size() + (d > 0);  // of the first not its first token
    double loss = 0;
    for (std::size_t i = 0; i < predicted; ++i) loss += nll[token++].get<double>();
    EXPECT_NEAR(whole["documents"][d][0].get<double>(), loss, 1e-5 * loss) << d;
    EXPECT_EQ(whole["documents"][d][1], predicted) << d;
    EXPECT_EQ(whole["documents"][d][2], texts[d].size() - (d == 0)) << d;
  }

  const auto expect_sums = [&](const json& found, const std::string& what) {
    double loss = 0;
    std::int64_t tokens = 0, bytes = 0;
    for (const json& d : found["documents"]) loss += double(d[0]), tokens += int(d[1]), bytes += int(d[2]);
    EXPECT_EQ(found["tokens"], tokens) << what;
    EXPECT_EQ(found["bytes"], bytes) << what;
    EXPECT_NEAR(double(found["loss"]) * double(tokens), loss, 1e-9 * loss) << what;
  };
  expect_sums(whole, "whole");
  const json cut = json_of(with({"--seq-length=7", "--batch=2"}));
  expect_sums(cut, "cut");
  for (const char* tp : {"1", "2"}) {
    const Outcome o = run_ranks(2, with({"--seq-length=7", "--batch=2", std::string("--parallel.tp=") + tp}));
    const json found = json::parse(o.out, nullptr, false);
    ASSERT_TRUE(found.is_object()) << o.err;
    expect_sums(found, std::string("tp ") + tp);
    for (std::size_t d = 0; d < texts.size(); ++d)
      EXPECT_NEAR(double(found["documents"][d][0]), double(cut["documents"][d][0]),
                  1e-5 * double(cut["documents"][d][0]))
          << tp << " " << d;
  }
  json plain = whole;
  plain.erase("documents");
  EXPECT_EQ(
      json_of({"eval", run, "--data=" + small.file("documents"), "--tokenizer=bytes", "--json", "--seq-length=64"}),
      plain);
  EXPECT_EQ(json_of({"eval", run, "--data=" + small.file("documents"), "--json", "--documents"})["documents"][0][2],
            nullptr)
      << "no tokenizer is known";
  expect_one_line(run_upcycle({"eval", run, "--data=" + small.file("documents"), "--documents"}),
                  {"--documents", "no --json"});
}

}  // namespace
}  // namespace upcycle
