#include <filesystem>
#include <set>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

using nlohmann::json;

json measured(const std::string& config, const Words& more = {}) {
  Words words{"bench", "step", config, "--steps=1", "--warmup=0", "--json"};
  words.insert(words.end(), more.begin(), more.end());
  return json_of(words);
}

// Keys of a training config that concern the run rather than a step have no effect, even if wrong on this machine.
TEST(Bench, KeysThatDoNotConcernItAreIgnored) {
  const SmallRun small;
  const std::int64_t parameters = measured(small.write_config("dense"))["parameters"];
  const std::string config = small.write_config(
      "run", {{"checkpoint", {{"dir", ""}, {"every", 100}, {"keep", 2}}},
              {"data", {{"train", small.file("none")}, {"valid", nullptr}, {"tokenizer", small.file("none.model")}}},
              {"init", {{"load", small.file("none")}}},
              {"train",
               {{"steps", nullptr},
                {"tokens", 1},
                {"eval_every", 10},
                {"warmup_steps", 50},
                {"schedule", "wsd"},
                {"min_lr", 1}}}});
  EXPECT_EQ(measured(config)["parameters"], parameters);
  // For a run that upcycles on the way it is the MoE's step.
  const json moe = measured(config, {"--model.num_local_experts=4", "--upcycle.at_step=1000"});
  EXPECT_GT(moe["parameters"].get<std::int64_t>(), parameters);
  const json ops = json_of({"bench", "ops", config, "--seconds=0.001", "--json"});
  EXPECT_EQ(ops["dtype"], "fp32");
  std::set<std::string> named;
  for (const json& row : ops["ops"]) named.insert(row["op"]);
  for (const char* op : {"adamw", "bias_backward", "head_norm_backward", "gate_logits_backward"})
    EXPECT_TRUE(named.count(op)) << op;
  EXPECT_NE(
      one_line_error(run_upcycle({"bench", "step", config, "--train.micro_batch_size=3"})).find("micro_batch_size"),
      std::string::npos);
}

// The README's shortest config: sizes are those of the dense model.
TEST(Bench, SizesAreInheritedAsInTraining) {
  const SmallRun small;
  const std::string dense = small.train("dense", {{"train", {{"steps", 1}}}});
  json changes{{"checkpoint", {{"dir", nullptr}, {"every", 200}}}};
  for (const auto& [key, value] : small.config["model"].items()) changes["model"][key] = nullptr;
  changes["model"]["num_local_experts"] = 4;
  const std::string config = small.write_config("moe", changes);
  const json moe = measured(config, {"--init.upcycle=" + dense});
  EXPECT_EQ(moe["parameters"], measured(small.write_config("dense"), {"--model.num_local_experts=4"})["parameters"]);
  EXPECT_EQ(measured(config, {"--init.load=" + dense, "--upcycle.at_step=100"})["parameters"], moe["parameters"]);
  EXPECT_NE(one_line_error(run_upcycle({"bench", "step", config, "--init.upcycle=" + small.file("none")})).find("none"),
            std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle({"bench", "step", config})).find("model.hidden_size"), std::string::npos);
}

TEST(Bench, AStepsMemoryIsSaidBesideItsPlan) {
  const json step = measured(SmallRun().write_config("run"));
  EXPECT_GT(step["memory_planned"].get<double>(), 0);
  EXPECT_GT(step["memory_in_use"].get<double>(), step["memory_planned"].get<double>());  // the program itself too
}

// What saving costs: every figure is there, a copy is no save, and nothing stays in the folder.
TEST(Bench, Checkpoint) {
  const SmallRun small;
  const std::string folder = small.file("disk");
  std::filesystem::create_directory(folder);
  const std::string config = small.write_config("run", {{"checkpoint", {{"every", 3}, {"snapshot", "bucket"}}}});
  const auto check = [&](const json& j, int ranks) {
    EXPECT_EQ(j["ranks"], ranks);
    EXPECT_EQ(j["repeats"], 2);
    EXPECT_GT(j["bytes"].get<double>(), 3 * 4 * 1000);
    for (const char* key : {"synchronous_s", "raw_s", "stall_s", "publish_s", "restore_s"})
      EXPECT_GT(j[key].get<double>(), 0) << key;
    for (const char* of : {"synchronous", "raw", "restore"})
      EXPECT_NEAR(j[std::string(of) + "_bytes_per_s"].get<double>() * j[std::string(of) + "_s"].get<double>(),
                  j["bytes"].get<double>(), 1);
    EXPECT_LT(j["stall_s"], j["synchronous_s"]);
    EXPECT_DOUBLE_EQ(j["stall_of_synchronous"].get<double>() * j["synchronous_s"].get<double>(),
                     j["stall_s"].get<double>());
    EXPECT_LT(j["second_save_stall_s"]["max_pending_2"], j["second_save_stall_s"]["max_pending_1"]);
    EXPECT_TRUE(std::filesystem::is_empty(folder));
  };
  const Words words{"bench", "checkpoint", config, "--folder=" + folder, "--repeats=2"};
  Words with_json = words;
  with_json.emplace_back("--json");
  check(json_of(with_json), 1);
  with_json.emplace_back("--parallel.tp=2");
  const Outcome two = run_ranks(2, with_json);
  ASSERT_EQ(two.exit_code, 0) << two.err;
  check(json::parse(two.out), 2);
  const Outcome text = run_upcycle(words);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("\nstall of a save in the background "), text.out.npos) << text.out;

  std::filesystem::create_directory(folder + "/upcycle_bench_checkpoint");
  EXPECT_NE(one_line_error(run_upcycle(words)).find("remove what an earlier one left"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(folder + "/upcycle_bench_checkpoint"));
  EXPECT_NE(one_line_error(run_upcycle({"bench", "checkpoint", config, "--folder=" + small.file("none")}))
                .find("--folder: found no folder"),
            std::string::npos);
  EXPECT_NE(one_line_error(run_upcycle({"bench", "checkpoint", config, "--repeats=0"})).find("--repeats: found 0"),
            std::string::npos);
}

TEST(Bench, CollectivesOfEachGroup) {
  const SmallRun small;
  const std::string config = small.write_config("run", {{"model", {{"num_local_experts", 4}}}});
  const auto bench = [&](const Words& more) {
    Words words{"bench", "collectives", config, "--seconds=0.001"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Outcome o = run_ranks(4, bench({"--bytes=2MiB", "--parallel.tp=2", "--parallel.ep=4", "--json"}));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  // Of 64 KiB, 1 MiB and 2 MiB over 4 ranks, and over 2; and on the links what nccl-tests says.
  const json rows = json::parse(o.out)["collectives"];
  ASSERT_EQ(rows.size(), 2u * 3 * 4);
  EXPECT_EQ(rows[0]["ranks"], 4);
  EXPECT_EQ(rows[8]["bytes"], 2 << 20);
  EXPECT_EQ(rows[12]["group"], "tp");
  const auto on_links = [&](std::size_t row) {
    return rows[row]["bus_gb_s"].get<double>() / rows[row]["gb_s"].get<double>();
  };
  EXPECT_EQ(rows[0]["collective"], "all_reduce");
  EXPECT_NEAR(on_links(0), 1.5, 1e-9);
  EXPECT_EQ(rows[3]["collective"], "all_to_all_v");
  EXPECT_NEAR(on_links(3), 0.75, 1e-9);

  const Outcome table = run_ranks(2, bench({"--bytes=1", "--link=450"}));
  EXPECT_NE(table.out.find("| bus GB/s | of the link |\n"), std::string::npos) << table.out << table.err;
  EXPECT_NE(table.out.find("\n| world | 2 | all_gather | 8 | "), std::string::npos) << table.out;
  expect_one_line(run_upcycle(bench({})), {"found one rank, expected several"});
  expect_one_line(run_ranks(2, bench({"--bytes=many"})), {"--bytes: found 'many', expected a size"});
  expect_one_line(run_ranks(2, bench({"--bytes=9000TiB"})), {"memory: found"});
}

}  // namespace
}  // namespace upcycle
