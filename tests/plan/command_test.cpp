#include <fmt/core.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "core/config/check.h"
#include "core/config/config.h"
#include "core/config/parse.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda_scratch.h"
#include "parallel/plan/plan.h"
#include "tests/cli/run_program.h"
#include "tests/cli/small_run.h"

// `upcycle plan` as users run it, and the configs that come with the program.
namespace upcycle {
namespace {

using nlohmann::json;
const std::string kConfigs = std::string(UPCYCLE_ROOT) + "/launch/configs/";

json plan_of(const std::string& config, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"plan", kConfigs + config, "--json"});
  const Outcome o = run_upcycle(arguments);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  return json::parse(o.out, nullptr, false);
}

TEST(PlanCommand, PrintsOneObject) {
  const json j = plan_of("tiny_moe.json", {"--world=4", "--parallel.tp=2", "--parallel.ep=4", "--memory=1GiB"});
  for (const char* key : {"world",
                          "rank",
                          "layout",
                          "parameters",
                          "active_parameters",
                          "tokens_per_step",
                          "micro_batches",
                          "memory",
                          "memory_training",
                          "memory_upcycling",
                          "memory_peak",
                          "fits",
                          "collectives",
                          "fixed_bytes",
                          "dispatch",
                          "flops",
                          "flops_all_ranks",
                          "model_flops",
                          "files",
                          "live_conversion"})
    EXPECT_TRUE(j.contains(key)) << key;
  EXPECT_EQ(j["layout"]["dp"], 2);
  EXPECT_EQ(j["fits"], true);
  EXPECT_EQ(j["tokens_per_step"], 32 * 128);
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : j["memory"].items()) sum += bytes.get<std::int64_t>();
  EXPECT_EQ(j["memory_training"], sum);
  for (const char* name : {"parameters", "gradients", "optimizer", "activations", "dispatch buffers", "scratch"})
    EXPECT_GT(j["memory"][name], 0) << name;
}

// A cluster's run is planned where there is neither a GPU nor a build for one.
TEST(PlanCommand, PlansForGpusInAnyBuild) {
  const std::vector<std::string> layout = {"--world=32", "--parallel.tp=8", "--parallel.ep=4", "--parallel.etp=8",
                                           "--checkpoint.dir=runs/8b"};
  std::vector<std::string> cuda = layout;
  cuda.emplace_back("--device=cuda");
  const json on_cpu = plan_of("llama3_8b_moe.json", layout), on_gpus = plan_of("llama3_8b_moe.json", cuda);
  for (const char* same : {"parameters", "gradients", "optimizer", "activations", "dispatch buffers"})
    EXPECT_EQ(on_cpu["memory"][same], on_gpus["memory"][same]) << same;
  EXPECT_TRUE(on_gpus["memory"].contains("CUDA and NCCL (estimate)"));
  EXPECT_EQ(on_gpus["memory_on_host"], json({"checkpoint snapshot"}));
  OpLimits limits;
  limits.T = 8192, limits.H = 4096, limits.V = 128256 / 8, limits.dtype = DType::BF16;
  // A block of logits in fp32 and in bf16, dx in fp32, cuBLASLt's 32 MiB.
  EXPECT_EQ(cuda::scratch::most_bytes(limits), (2048 * 4096 * 6) + (8192 * 4096 * 4) + (32 << 20));
}

TEST(PlanCommand, PrintsATable) {
  const Outcome o = run_upcycle({"plan", kConfigs + "tiny_moe.json", "--world=2", "--parallel.ep=2"});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  for (const char* text : {"parameters", "dispatch buffers", "ep all_to_all_v", "FLOPs of a step", "a checkpoint"})
    EXPECT_NE(o.out.find(text), std::string::npos) << text << " in\n" << o.out;
}

TEST(PlanCommand, SaysThatItDoesNotFitAndWhatToChange) {
  const json j = plan_of("llama3_8b_moe.json", {"--world=8", "--memory=80GiB"});
  EXPECT_EQ(j["fits"], false);
  EXPECT_NE(j["advice"].get<std::string>().find("parallel."), std::string::npos) << j["advice"];
}

// A CPU's ranks have everything in host memory.
TEST(PlanCommand, AddsUpTheHostMemoryOfANode) {
  const json all = plan_of("tiny_moe.json", {"--world=4"})["host_memory"];
  const std::int64_t each = all["per_rank"];
  EXPECT_EQ(each, plan_of("tiny_moe.json", {"--world=4"})["memory_peak"]);
  EXPECT_EQ(all, (json{{"ranks_per_node", 4}, {"per_rank", each}, {"per_node", 4 * each}}));
  const auto two = [&](std::int64_t given) {
    return plan_of("tiny_moe.json",
                   {"--world=4", "--ranks-per-node=2", "--node-memory=" + std::to_string(given)})["host_memory"];
  };
  EXPECT_EQ(two(2 * each)["per_node"], 2 * each);
  EXPECT_EQ(two(2 * each)["fits"], true);
  EXPECT_EQ(two(2 * each - 1)["fits"], false);
  const Outcome o = run_upcycle({"plan", kConfigs + "tiny_moe.json", "--node-memory=1MiB"});
  EXPECT_NE(o.out.find("host memory per node: "), std::string::npos) << o.out;
  EXPECT_NE(o.out.find("it does not fit a node's 1.00 MiB, by "), std::string::npos) << o.out;
  EXPECT_NE(o.out.find("checkpoint.snapshot=bucket"), std::string::npos) << o.out;
}

// Saves that may wait for the disk have a copy of the state each.
TEST(PlanCommand, CountsTheCopiesOfSavesThatWait) {
  const std::vector<std::string> words{"--world=2", "--parallel.ep=2", "--checkpoint.every=5"};
  std::vector<std::string> more = words;
  more.emplace_back("--checkpoint.max_pending=3");
  const json one = plan_of("tiny_moe.json", words), three = plan_of("tiny_moe.json", more);
  const auto copies = [](const json& plan) -> std::int64_t { return plan["memory"]["checkpoint snapshot"]; };
  EXPECT_GT(copies(one), 0);
  EXPECT_EQ(copies(three), 3 * copies(one));
  EXPECT_EQ(three["host_memory"]["per_rank"].get<std::int64_t>() - one["host_memory"]["per_rank"].get<std::int64_t>(),
            2 * copies(one));
  const Outcome o =
      run_upcycle({"plan", kConfigs + "tiny_moe.json", "--checkpoint.every=5", "--checkpoint.max_pending=3"});
  EXPECT_NE(o.out.find("3 copies of the state"), std::string::npos) << o.out << o.err;
}

TEST(PlanCommand, SaysWhatRecomputationSavesAndCosts) {
  const json costs =
      plan_of("tiny_moe.json", {"--world=2", "--parallel.ep=2", "--train.recompute=mlp,norms"})["recompute"];
  std::map<std::string, json> of;
  for (const json& c : costs) of[c["setting"]] = c;
  EXPECT_EQ(of.size(), 8u) << costs;
  EXPECT_EQ(costs[0]["setting"], "none");
  const json& none = of["none"];
  EXPECT_EQ(none["recomputed_bytes"], 0);
  for (const auto& [setting, c] : of) {
    if (setting == "none") continue;
    EXPECT_LT(c["memory_training"], none["memory_training"]) << setting;
    EXPECT_GT(c["recomputed_bytes"], 0) << setting;
    const bool product = setting != "norms" && setting != "swiglu" && setting != "selective";
    EXPECT_EQ(c["flops"] > none["flops"], product) << setting;
    EXPECT_EQ(c["collective_bytes"] > none["collective_bytes"], setting == "full") << setting;
  }
  const auto saved = [&](const char* setting) -> std::int64_t {
    return none["memory_training"].get<std::int64_t>() - of[setting]["memory_training"].get<std::int64_t>();
  };
  EXPECT_EQ(saved("selective"), saved("norms") + saved("swiglu"));
  EXPECT_EQ(saved("mlp,norms"), saved("norms") + saved("mlp"));
  EXPECT_GT(saved("full"), saved("mlp,norms") + saved("attention"));
}

TEST(PlanCommand, AThousandRanksOfSeventyBillionParametersTakeSeconds) {
  const json j = plan_of("llama_70b_moe.json",
                         {"--world=1024", "--rank=777", "--parallel.tp=8", "--parallel.ep=8", "--parallel.etp=8"});
  EXPECT_EQ(j["rank"], 777);
  EXPECT_EQ(j["layout"]["edp"], 16);
  EXPECT_GT(j["parameters"].get<double>(), 400e9);
}

TEST(PlanCommand, BadInputIsOneLine) {
  const std::string config = kConfigs + "tiny_moe.json";
  const auto error = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"plan", config});
    return one_line_error(run_upcycle(arguments));
  };
  const std::string layout = error({"--world=8", "--parallel.tp=3"});
  EXPECT_NE(layout.find("parallel.tp=3 does not divide world=8"), std::string::npos) << layout;
  EXPECT_NE(layout.find("tp=2 ep="), std::string::npos) << layout;
  const std::string heads = error({"--world=8", "--parallel.tp=4"});
  EXPECT_NE(heads.find("num_key_value_heads"), std::string::npos) << heads;
  EXPECT_NE(heads.find("tp=2 ep="), std::string::npos) << heads;
  const std::string experts = error({"--world=32", "--parallel.ep=32"});
  EXPECT_NE(experts.find("num_local_experts"), std::string::npos) << experts;
  EXPECT_NE(experts.find("ep=16"), std::string::npos) << experts;
  EXPECT_NE(error({"--world=5"}).find("global_batch_size"), std::string::npos);
  EXPECT_NE(error({"--world=0"}).find("--world"), std::string::npos);
  EXPECT_NE(error({"--rank=1"}).find("--rank"), std::string::npos);
  EXPECT_NE(error({"--memory=lots"}).find("--memory"), std::string::npos);
  EXPECT_NE(error({"--node-memory=lots"}).find("--node-memory: found 'lots'"), std::string::npos);
  for (const char* ranks : {"--ranks-per-node=0", "--ranks-per-node=3"})
    EXPECT_NE(error({"--world=2", ranks}).find("--ranks-per-node: found"), std::string::npos) << ranks;
  EXPECT_NE(error({"--serve", "--node-memory=1GB"}).find("found --node-memory with --serve"), std::string::npos);
  for (const std::string option : {"--policy=mixed", "--max-num-seqs=256", "--max-num-batched-tokens=4096",
                                   "--max-model-len=64", "--block-size=16"}) {
    const std::string found = error({option}), name = option.substr(0, option.find('='));
    EXPECT_NE(found.find("found " + name + " without --serve"), std::string::npos) << found;
  }
}

// `train` refuses a conversion that the machine can not hold, by the plan's number.
TEST(PlanCommand, HasTheMemoryOfAConversionThatTrainAsksFor) {
  const SmallRun small;
  const std::string config = small.write_config("live", {{"model",
                                                          {{"hidden_size", 16384},
                                                           {"intermediate_size", 16384},
                                                           {"num_hidden_layers", 100},
                                                           {"num_attention_heads", 128},
                                                           {"num_key_value_heads", 128},
                                                           {"num_local_experts", 4}}},
                                                         {"checkpoint", {{"every", 2}}},
                                                         {"upcycle", {{"at_step", 2}}}});
  const std::map<std::string, std::string> threads = {{"OMP_NUM_THREADS", "2"}};
  const Outcome planned = run_upcycle({"plan", config, "--json"}, threads);
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  const json j = json::parse(planned.out, nullptr, false);
  ASSERT_TRUE(j.is_object()) << planned.out;
  EXPECT_GT(j["memory"]["checkpoint snapshot"], 0);
  const std::string refused = one_line_error(run_upcycle({"train", config}, threads));
  const std::string found = fmt::format("memory: found {:.1f} GiB", j["memory_upcycling"].get<double>() / 0x1p30);
  EXPECT_NE(refused.find(found), std::string::npos) << found << " in " << refused;
}

// Every config that comes with the program, where it works; those that inherit their model are given one.
TEST(Configs, AllParseAndPlan) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".json") continue;
    if (entry.path().filename().string().starts_with("study_")) continue;  // Study.TheStudiesThatComeWithItCanBeRun
    ++found;
    SCOPED_TRACE(entry.path());
    Config c = parse_config(entry.path(), {});
    if (c.model.hidden_size == 0) {
      const ModelConfig dense = parse_config(kConfigs + "quickstart_dense.json", {}).model;
      const ModelConfig asked = c.model;
      c.model = dense;
      c.model.num_local_experts = asked.num_local_experts;
      c.model.num_experts_per_tok = asked.num_experts_per_tok;
    }
    EXPECT_NO_THROW(check_model(c.model, entry.path()));
    // As many replicas as its batch has microbatches: one each.
    const std::int64_t ranks = c.train.global_batch_size / c.train.micro_batch_size * c.parallel.tp;
    const Plan plan = make_plan({c, {}, CpuOps::most_workspace}, static_cast<int>(ranks));
    EXPECT_EQ(plan.micro_batches, 1);
    EXPECT_GT(plan.peak_bytes(), 0u);
    EXPECT_EQ(plan.parameters.total > plan.parameters.active, c.model.is_moe());
  }
  EXPECT_GE(found, 19);
}

TEST(Configs, HaveTheSizesTheyAreNamedAfter) {
  const auto billions = [](const char* file) {
    return static_cast<double>(count_parameters(parse_config(kConfigs + file, {}).model).total) / 1e9;
  };
  EXPECT_NEAR(billions("paper_436m_dense.json"), 0.4362, 0.0001);
  EXPECT_NEAR(billions("paper_1.4b_dense.json"), 1.4177, 0.0001);
  EXPECT_NEAR(billions("paper_436m_moe.json"), 1.647, 0.001);
  EXPECT_NEAR(billions("paper_1.4b_moe.json"), 6.702, 0.001);
  EXPECT_NEAR(billions("paper_serving_8b_dense.json"), 8.030, 0.001);
  EXPECT_NEAR(billions("paper_serving_8b_moe.json"), 47.49, 0.01);
  for (const char* size : {"436m", "1.4b"}) {  // served with another vocabulary
    ModelConfig m = parse_config(fmt::format("{}paper_serving_{}_moe.json", kConfigs, size), {}).model;
    m.vocab_size = 100352;
    EXPECT_EQ(m, parse_config(fmt::format("{}paper_{}_moe.json", kConfigs, size), {}).model);
  }
  for (const auto& [dense, moe] : {std::pair{"paper_436m_dense.json", "paper_436m_moe.json"},
                                   {"paper_1.4b_dense.json", "paper_1.4b_moe.json"},
                                   {"paper_serving_436m_dense.json", "paper_serving_436m_moe.json"},
                                   {"paper_serving_1.4b_dense.json", "paper_serving_1.4b_moe.json"},
                                   {"paper_serving_8b_dense.json", "paper_serving_8b_moe.json"}}) {
    ModelConfig m = parse_config(kConfigs + moe, {}).model;
    EXPECT_EQ(m.num_local_experts, 8);
    m.num_local_experts = 0;
    EXPECT_EQ(m, parse_config(kConfigs + dense, {}).model);
  }
  Config llama = parse_config(kConfigs + "llama3_8b_moe.json", {});
  llama.model.num_local_experts = 0;
  EXPECT_EQ(count_parameters(llama.model).total, 8'030'261'248);
  EXPECT_EQ(parse_config(kConfigs + "one_node_8b.json", {}).model,
            parse_config(kConfigs + "llama3_8b_moe.json", {}).model);
  Config qwen = parse_config(kConfigs + "one_node_qwen2.5_7b.json", {});
  qwen.model.num_local_experts = 0;
  EXPECT_EQ(count_parameters(qwen.model).total, 7'615'616'512);
  llama = parse_config(kConfigs + "llama_70b_moe.json", {});
  llama.model.num_local_experts = 0;
  EXPECT_EQ(count_parameters(llama.model).total, 70'553'706'496);
}

// What the engine allocates is checked in tests/serve_mpi; here, that the cache gets what is left and that nonsense is
// refused.
TEST(PlanCommand, SaysWhatServingTakes) {
  const auto plan = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"--serve", "--world=4", "--parallel.tp=2", "--parallel.ep=4", "--max-num-seqs=8"});
    return plan_of("tiny_moe.json", more);
  };
  const json all = plan({});
  const std::int64_t most = all["memory_total"].get<std::int64_t>() - 20 * all["page_bytes"].get<std::int64_t>();
  const json some = plan({"--memory=" + std::to_string(most)});
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : all["memory"].items()) sum += bytes.get<std::int64_t>();
  EXPECT_EQ(all["memory_total"], sum);
  const std::int64_t longest = all["max_model_len"].get<std::int64_t>() / 16;
  EXPECT_EQ(all["pages"], 8 * longest);  // no more than its sequences can fill
  EXPECT_LT(some["pages"], all["pages"]);
  EXPECT_EQ(some["tokens_cached"], some["pages"].get<std::int64_t>() * 16);
  EXPECT_LE(some["memory_total"], most);
  EXPECT_GT(some["memory_total"].get<std::int64_t>() + some["page_bytes"].get<std::int64_t>() * 2, most - (1 << 15));

  const auto refused = [](std::vector<std::string> more, const std::string& says) {
    more.insert(more.begin(), {"plan", kConfigs + "tiny_moe.json", "--serve"});
    const Outcome o = run_upcycle(more);
    EXPECT_EQ(o.exit_code, 2);
    EXPECT_NE(o.err.find(says), std::string::npos) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  };
  refused({"--memory=1MiB"}, "--memory: found 1048576 bytes per rank");
  refused({"--policy=fair"}, "--policy: found 'fair', expected mixed or prefill_first");
  refused({"--block-size=12"}, "--block-size: found 12");
  refused({"--max-model-len=100000"}, "at most the model's max_position_embeddings");
  refused({"--world=8", "--parallel.tp=4"}, "num_key_value_heads");
  refused({"--world=8", "--parallel.tp=4"}, "work with world=8 for this model: tp=2 ep=");
  refused({"--world=32", "--parallel.ep=32"}, "ep=16");
  refused({"--max-num-batched-tokens=100"}, "expected at least --max-num-seqs = 256");
}

}  // namespace
}  // namespace upcycle
