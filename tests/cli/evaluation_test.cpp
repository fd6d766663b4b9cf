#include <fmt/core.h>

#include <set>

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

}  // namespace
}  // namespace upcycle
