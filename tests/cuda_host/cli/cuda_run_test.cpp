#include <fmt/core.h>

#include <filesystem>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// Whole commands with --device=cuda on the emulated GPU (the program upcycle_emulated), against the same on the CPU
// (the ordinary binary).
namespace upcycle {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const json moe = {{"num_local_experts", 4}, {"num_experts_per_tok", 2}};

// Runs the emulated program, on several ranks through run_local.sh.
Outcome run_cuda(const Words& arguments, int ranks = 1, const std::map<std::string, std::string>& more = {}) {
  std::map<std::string, std::string> environment{{"UPCYCLE_BINARY", UPCYCLE_EMULATED}, {"OMP_NUM_THREADS", "1"}};
  if (ranks > 1) environment["UPCYCLE_EMUL_STREAMS"] = "deferred";  // as late as the waits allow
  environment.insert(more.begin(), more.end());
  Words words{UPCYCLE_EMULATED};
  if (ranks > 1) words = {UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_program(words, environment);
}

struct CudaRun : ::testing::Test {
  SmallRun small;

  void SetUp() override { small.config["train"]["schedule"] = "constant"; }
  std::string file(const std::string& name) const { return small.file(name); }
  Outcome expect_trained(const std::string& name, json changes, int ranks = 1, const Words& more = {}) const {
    changes["device"] = "cuda";
    Words words{"train", small.write_config(name, changes)};
    words.insert(words.end(), more.begin(), more.end());
    Outcome o = run_cuda(words, ranks);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_NE(o.err.find("rank 0 computes on GPU 0 (0000:01:00.0)"), std::string::npos) << o.err;
    return o;
  }
  // Every step of both runs, which take the same ones.
  void expect_same_steps(const std::string& found, const std::string& expected, double tolerance) const {
    const std::vector<json> a = step_lines(file(found)), b = step_lines(file(expected));
    ASSERT_EQ(a.size(), b.size());
    ASSERT_FALSE(b.empty());
    for (std::size_t i = 0; i < b.size(); ++i) {
      EXPECT_EQ(a[i]["step"], b[i]["step"]);
      for (const char* key : {"loss", "grad_norm"})
        EXPECT_NEAR(a[i][key].get<double>(), b[i][key].get<double>(), tolerance * b[i][key].get<double>())
            << key << " of step " << i + 1;
    }
  }
};

TEST_F(CudaRun, ACheckpointGoesFromCudaToTheCpuAndBack) {
  json all{{"model", moe}, {"train", {{"steps", 4}}}}, half = all;
  half["train"]["steps"] = 2;
  small.train("cpu", all);
  (void)expect_trained("cuda", all);
  expect_same_steps("cuda", "cpu", 1e-4);
  // The first half on one, the second on the other.
  (void)expect_trained("from_cuda", half);
  small.train("from_cuda", all);
  expect_same_steps("from_cuda", "cpu", 1e-4);
  small.train("from_cpu", half);
  const Outcome resumed = expect_trained("from_cpu", all);
  EXPECT_NE(resumed.err.find("device: \"cpu\" -> \"cuda\""), std::string::npos) << resumed.err;
  expect_same_steps("from_cpu", "cpu", 1e-4);
}

// A rank's rows come from its GPU; copies that came too early would differ.
TEST_F(CudaRun, ADumpIsTheCpus) {
  json changes{{"model", moe}, {"train", {{"steps", 1}}}};
  changes["debug"]["dump"] = file("cpu_dump");
  small.train("cpu", changes);
  changes["debug"]["dump"] = file("cuda_dump");
  changes["parallel"] = {{"tp", 2}};
  (void)expect_trained("cuda", changes, 2);
  const Outcome o = run_upcycle({"diff", file("cpu_dump"), file("cuda_dump"), "--relative=1e-3"});
  EXPECT_EQ(o.exit_code, 0) << o.out << o.err;
}

TEST_F(CudaRun, TwoRanksOverNcclThenOneOnTheCpu) {
  json all{{"model", moe}, {"train", {{"steps", 4}}}}, half = all;
  small.train("cpu", all);
  for (const json& parallel : {json{{"ep", 2}}, json{{"tp", 2}}}) {
    const std::string name = "two_" + parallel.items().begin().key();
    half["parallel"] = parallel;
    half["train"]["steps"] = 2;
    (void)expect_trained(name, half, 2);
    EXPECT_EQ(checkpoint_hashes(file(name)).size(), 4u);  // model and optimizer of two ranks
    small.train(name, all);
    expect_same_steps(name, "cpu", 1e-4);
  }
}

// Files are the same, byte for byte, wherever masters and moments lie, and a run may change it at any checkpoint.
TEST_F(CudaRun, OffloadedRunsSaveTheSameFiles) {
  for (const int ranks : {1, 2}) {
    json all{{"model", moe}, {"dtype", ranks == 1 ? "fp32" : "bf16"}, {"train", {{"steps", 4}}}}, half = all;
    if (ranks == 2) all["parallel"] = half["parallel"] = {{"ep", 2}};
    half["train"]["steps"] = 2;
    const auto name = [&](const char* of) { return fmt::format("{}_{}", of, ranks); };
    const Words on{"--train.optimizer_offload=true"};
    (void)expect_trained(name("plain"), all, ranks);
    (void)expect_trained(name("offloaded"), all, ranks, on);
    (void)expect_trained(name("first"), half, ranks, on);
    (void)expect_trained(name("first"), all, ranks);
    (void)expect_trained(name("second"), half, ranks);
    const Outcome resumed = expect_trained(name("second"), all, ranks, on);
    EXPECT_NE(resumed.err.find("train.optimizer_offload: false -> true"), std::string::npos) << resumed.err;
    const auto want = checkpoint_hashes(file(name("plain")));
    EXPECT_EQ(want.size(), 2U * static_cast<unsigned>(ranks));
    for (const char* run : {"offloaded", "first", "second"}) EXPECT_EQ(checkpoint_hashes(file(name(run))), want) << run;
  }
}

TEST_F(CudaRun, APlanSaysWhatOffloadingCosts) {
  const std::string config = small.write_config("run", {{"model", moe}, {"dtype", "bf16"}, {"device", "cuda"}});
  const auto plan = [&](const char* offload, Words more) {
    more.insert(more.begin(), {"plan", config, std::string("--train.optimizer_offload=") + offload});
    const Outcome o = run_cuda(more);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return o.out;
  };
  const json before = json::parse(plan("false", {"--json"})),
             after = json::parse(plan("true", {"--json", "--host-rate=1e9"}));
  EXPECT_FALSE(before.contains("offload"));
  const std::int64_t n = after["parameters"], state = after["memory"]["optimizer state"],
                     on_gpu = before["memory"]["optimizer"], left = after["memory"]["optimizer"];
  EXPECT_EQ(state + left, on_gpu);
  EXPECT_LT(left, 1024);
  EXPECT_EQ(before["memory_training"].get<std::int64_t>() - after["memory_training"].get<std::int64_t>(), state);
  EXPECT_EQ(after["memory_on_host"], json({"optimizer state", "offload buffers", "checkpoint snapshot"}));
  const json& cost = after["offload"];
  EXPECT_EQ(cost["down"], 4.0 * static_cast<double>(n));
  EXPECT_EQ(cost["up"], 2.0 * static_cast<double>(n));
  EXPECT_EQ(cost["host_memory"], 2 * (12.0 + 4 + 2) * static_cast<double>(n));
  EXPECT_NEAR(cost["seconds"], cost["host_memory"].get<double>() / 1e9, 1e-12);
  EXPECT_NE(plan("true", {}).find("s of the CPU at 50 GB/s"), std::string::npos);

  const Words refused{"plan", config, "--host-rate=1e9"};
  expect_one_line(run_cuda(refused), {"command line: found --host-rate, expected train.optimizer_offload"});
  expect_one_line(run_cuda({"plan", config, "--train.optimizer_offload=true", "--host-rate=0"}),
                  {"command line: --host-rate: found 0, expected above 0"});
  expect_one_line(run_cuda({"plan", config, "--serve", "--host-rate=1e9"}), {"found --host-rate with --serve"});
}

TEST_F(CudaRun, UpcyclesAModelAndARunningOne) {
  const std::string dense = small.train("dense", {{"train", {{"steps", 2}}}});
  const json changes{{"model", {{"num_local_experts", 4}}}, {"init", {{"upcycle", dense}}}, {"train", {{"steps", 2}}}};
  small.train("cpu", changes);
  const Outcome upcycled = expect_trained("cuda", changes);
  EXPECT_NE(upcycled.err.find("upcycled " + dense + " to 4 experts"), std::string::npos) << upcycled.err;
  expect_same_steps("cuda", "cpu", 1e-4);

  const json live{{"model", moe}, {"upcycle", {{"at_step", 1}}}, {"train", {{"steps", 3}}}};
  small.train("cpu_live", live);
  EXPECT_NE(expect_trained("cuda_live", live).err.find("step 1: upcycled in place to 4 experts"), std::string::npos);
  expect_same_steps("cuda_live", "cpu_live", 1e-4);
  (void)expect_trained("cuda_live_2", live, 2, {"--parallel.ep=2"});
  expect_same_steps("cuda_live_2", "cpu_live", 1e-4);
}

TEST_F(CudaRun, EvalScoreAndGenerateAsOnTheCpu) {
  const std::string run = small.train("run", {{"model", moe}, {"train", {{"steps", 20}}}});
  const std::string ids = small.write_ids("ids.json", {72, 101, 108, 108, 111, 32, 99, 97, 116});
  for (const int ranks : {1, 2}) {
    const auto both = [&](Words words) {
      const json expected = json_of(words);
      words.push_back("--device=cuda");
      if (ranks > 1) words.insert(words.end(), {"--parallel.tp=2", "--parallel.ep=2"});
      const Outcome o = run_cuda(words, ranks);
      EXPECT_EQ(o.exit_code, 0) << o.err;
      return std::pair{json::parse(o.out, nullptr, false), expected};
    };
    const auto [loss, cpu_loss] =
        both({"eval", run, "--data=" + file("valid"), "--seq-length=32", "--json", "--documents"});
    EXPECT_NEAR(loss["loss"].get<double>(), cpu_loss["loss"].get<double>(), 1e-5);
    EXPECT_EQ(loss["tokens"], cpu_loss["tokens"]);
    EXPECT_NEAR(double(loss["documents"][0][0]), double(loss["loss"]) * double(loss["tokens"]), 1e-6);

    const auto [choices, cpu_choices] =
        both({"cloze", run, "--data=" + file("train"), "--context=16", "--length=8", "--items=24", "--json"});
    EXPECT_EQ(choices, cpu_choices);

    const auto [scores, cpu_scores] = both({"score", run, "--ids=" + ids, "--json"});
    for (const char* list : {"nll", "logits_last"}) {
      ASSERT_EQ(scores[list].size(), cpu_scores[list].size());
      for (std::size_t i = 0; i < scores[list].size(); ++i)
        EXPECT_NEAR(scores[list][i].get<double>(), cpu_scores[list][i].get<double>(), 1e-4) << list << " " << i;
    }
  }

  Words words{"generate", run, "The cat", "--tokenizer=bytes", "--temperature=0", "--tokens=12"};
  const Outcome expected = run_upcycle(words);
  words.push_back("--device=cuda");
  Outcome found = run_cuda(words);
  EXPECT_EQ(found.exit_code, 0) << found.err;
  EXPECT_EQ(found.out, expected.out);
  words.insert(words.end(), {"--parallel.tp=2", "--parallel.ep=2"});
  found = run_cuda(words, 2);
  EXPECT_EQ(found.exit_code, 0) << found.err;
  EXPECT_EQ(found.out, expected.out);
  EXPECT_GT(found.out.size(), std::string("The cat\n").size());
}

TEST_F(CudaRun, ExpertsAreComparedAsOnTheCpu) {
  const std::string run = small.train("run", {{"model", moe}, {"train", {{"steps", 3}}}});
  for (const char* dtype : {"fp32", "bf16"}) {
    Words words{"experts", run, "--data=" + file("train"), "--tokens=64", "--json", std::string("--dtype=") + dtype};
    const json expected = json_of(words);
    words.push_back("--device=cuda");
    const Outcome o = run_cuda(words);
    const json found = json::parse(o.out, nullptr, false);
    ASSERT_TRUE(found.is_object()) << o.err;
    for (const char* key : {"weight_cosine", "pair_cosine", "output_cosine", "entropy"})
      for (std::size_t i = 0; i < 2; ++i)
        EXPECT_NEAR(double(found[key][i]), double(expected[key][i]), dtype[0] == 'f' ? 1e-4 : 2e-2) << key << dtype;
  }
}

TEST_F(CudaRun, BenchesSayWhatTheyMeasured) {
  const std::string config = small.write_config("bench", {{"model", moe}, {"device", "cuda"}});
  const Outcome step = run_cuda({"bench", "step", config, "--steps=2", "--warmup=1", "--json"}, 2);
  ASSERT_EQ(step.exit_code, 0) << step.err;
  const json j = json::parse(step.out, nullptr, false);
  EXPECT_GT(j["tokens_per_s"].get<double>(), 0) << step.out;
  EXPECT_GT(j["mfu"].get<double>(), 0);
  EXPECT_TRUE(j["comm_share"].is_null());
  // On a GPU of little memory the copies and weights that caches do not hold are small.
  const Outcome ops =
      run_cuda({"bench", "ops", config, "--seconds=0.001", "--json"}, 1, {{"UPCYCLE_EMUL_MEMORY", "268435456"}});
  ASSERT_EQ(ops.exit_code, 0) << ops.err;
  const json list = json::parse(ops.out, nullptr, false)["ops"];
  EXPECT_GT(list.size(), 20u);
  for (const json& op : list) EXPECT_GT(op["us"].get<double>(), 0) << op;
}

TEST_F(CudaRun, TheProfilerIsToldWhichStepsToRecord) {
  const json changes{{"train", {{"steps", 4}, {"profile_step_start", 2}, {"profile_step_end", 3}}}, {"device", "cuda"}};
  const Outcome o = run_cuda({"train", small.write_config("run", changes)}, 1, {{"UPCYCLE_EMUL_SAY_PROFILER", "1"}});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  std::size_t at = 0;
  for (const char* text : {"step 1/4", "profiler: records steps 2 to 3", "emul: cudaProfilerStart", "step 2/4",
                           "step 3/4", "emul: cudaProfilerStop", "step 4/4"}) {
    at = o.err.find(text, at);
    ASSERT_NE(at, std::string::npos) << text << " is missing or too early in\n" << o.err;
  }
}

// Ops are timed in their stream, transfers in those of their groups: a row for each.
TEST_F(CudaRun, ATraceHasRowsOfTheGpusStreams) {
  const json changes{
      {"model", moe},
      {"parallel", {{"ep", 2}}},
      {"train",
       {{"steps", 2}, {"profile_step_start", 2}, {"profile_step_end", 2}, {"profile_trace", file("trace.json")}}}};
  (void)expect_trained("run", changes, 2);
  const json trace = json::parse(text_of(file("trace.json")), nullptr, false);
  ASSERT_FALSE(trace.is_discarded());
  for (const int rank : {0, 1}) {
    std::map<int, std::string> rows;
    std::map<std::string, std::map<std::string, int>> spans;  // by row and name
    double begin = 0, end = 0, first = 1e300, last = 0;       // of the host's step; of the GPU's work
    for (const json& e : trace["traceEvents"]) {
      if (e["pid"] != rank) continue;
      if (e["name"] == "thread_name") rows[e["tid"]] = e["args"]["name"];
      if (e["ph"] != "X") continue;
      const std::string row = rows.at(e["tid"]);
      ++spans[row][e["name"]];
      const double from = e["ts"], to = from + e["dur"].get<double>();
      if (e["name"] == "step") begin = from, end = to;
      if (row == "GPU" && e["name"] == "matmul") {
        EXPECT_GT(e["args"]["flops"].get<double>(), 0);
        first = std::min(first, from), last = std::max(last, to);
      }
    }
    EXPECT_GT(spans["GPU"]["matmul"], 0);
    for (const char* op : {"matmul", "grouped_matmul", "sort_by_expert", "attention_backward"})
      EXPECT_EQ(spans["GPU"][op], spans["host"][op]) << op;
    EXPECT_GT(spans["GPU ep"]["ep all_to_all_v"], 0);
    EXPECT_GT(first, begin - 1000);
    EXPECT_LT(last, end + 1000);
  }
}

TEST_F(CudaRun, TheDoctorTriesGpusAndNccl) {
  const Outcome o = run_cuda({"doctor", "--device=cuda", "--dtype=bf16", "--seconds=0.1", "--least-share=0", "--json",
                              "--folder=" + small.folder.path.string()},
                             2);
  const json j = json::parse(o.out, nullptr, false);
  ASSERT_FALSE(j.is_discarded()) << o.out << o.err;
  ASSERT_EQ(j["ranks"].size(), 2u);
  for (const json& r : j["ranks"]) {
    EXPECT_NE(r["gpu"].get<std::string>().find("NCCL 2."), std::string::npos) << r["gpu"];
    EXPECT_TRUE(r["products_right"]);
    EXPECT_TRUE(r["exchange_right"]);
    EXPECT_GT(r["link_bytes_per_s"].get<double>(), 0);
  }
}

TEST_F(CudaRun, AProfilerThatRecordedNothingIsSaidSo) {
  const json changes{{"train", {{"steps", 1}, {"profile_step_start", 2}, {"profile_step_end", 3}}}, {"device", "cuda"}};
  const std::string config = small.write_config("run", changes);
  const std::map<std::string, std::string> say{{"UPCYCLE_EMUL_SAY_PROFILER", "1"}};
  const Outcome late = run_cuda({"train", config}, 1, say);
  ASSERT_EQ(late.exit_code, 0) << late.err;
  EXPECT_NE(late.err.find("profiler: recorded nothing: the run ended at step 1, train.profile_step_start is 2"),
            std::string::npos)
      << late.err;
  // A window that the run's end cuts is closed there.
  const Outcome cut = run_cuda({"train", config, "--train.steps=2"}, 1, say);
  ASSERT_EQ(cut.exit_code, 0) << cut.err;
  EXPECT_EQ(cut.err.find("recorded nothing"), std::string::npos) << cut.err;
  EXPECT_NE(cut.err.find("emul: cudaProfilerStop"), std::string::npos) << cut.err;
}

TEST_F(CudaRun, APlanCountsWhatCudaAndNcclTake) {
  const std::string config = small.write_config("run", {{"model", moe}, {"checkpoint", {{"every", 2}}}});
  const auto plan = [&](Words more) {
    more.insert(more.begin(), {"plan", config, "--json"});
    const Outcome o = run_cuda(more);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return json::parse(o.out, nullptr, false);
  };
  constexpr std::int64_t mib = 1 << 20;
  const char* name = "CUDA and NCCL (estimate)";
  const json one = plan({"--device=cuda"}), two = plan({"--device=cuda", "--world=2", "--parallel.ep=2"});
  EXPECT_EQ(one["memory"][name], 512 * mib) << one;
  EXPECT_EQ(two["memory"][name], (512 + 2 * 256) * mib) << two;  // of dp and ep
  EXPECT_EQ(one["memory_on_host"], json{"checkpoint snapshot"});
  EXPECT_EQ(two["host_memory"]["per_rank"], two["memory"]["checkpoint snapshot"]);
  EXPECT_EQ(two["host_memory"]["ranks_per_node"], 2);
  std::int64_t sum = 0;
  for (const auto& [key, bytes] : one["memory"].items())
    if (key != "checkpoint snapshot") sum += bytes.get<std::int64_t>();
  EXPECT_EQ(one["memory_training"], sum);
  const json cpu = plan({});
  EXPECT_FALSE(cpu["memory"].contains(name) || cpu.contains("memory_on_host")) << cpu;
}

struct CudaRefused : CudaRun {
  const std::string config = small.write_config("run", {{"device", "cuda"}});
  std::set<std::string> before = files_below(small.folder.path.string());
  void TearDown() override { EXPECT_EQ(files_below(small.folder.path.string()), before); }
};

TEST_F(CudaRefused, WithoutADriverOrAGpu) {
  for (const auto& [devices, reason] : {std::pair{"no_driver", "driver version is insufficient"},
                                        std::pair{"0", "no CUDA-capable device is detected"}}) {
    const std::map<std::string, std::string> none{{"UPCYCLE_EMUL_DEVICES", devices}};
    const Words bad{"run.json: device: found cuda", reason, "--device=cpu"};
    for (const Words& words : {Words{"train", config}, Words{"bench", "step", config}}) {
      expect_one_line(run_cuda(words, 1, none), bad);
      expect_one_line(run_cuda(words, 2, none), bad);
    }
    expect_one_line(run_cuda({"eval", file("none"), "--data=" + file("valid"), "--device=cuda"}, 1, none),
                    {"command line: device: found cuda", reason});
  }
}

TEST_F(CudaRefused, RanksThatWouldShareAGpu) {
  expect_one_line(
      run_cuda({"train", config}, 2, {{"UPCYCLE_EMUL_DEVICES", "1"}}),
      {"rank 1 on ", "device: found cuda with 2 ranks on", "rank 1 sees 1 and would share 0000:01:00.0 with rank 0"});
}

TEST_F(CudaRefused, WhereAnArenaExceedsTheGpu) {
  expect_one_line(run_cuda({"train", config, "--train.micro_batch_size=1000000", "--train.global_batch_size=1000000"}),
                  {"memory: found", "GiB needed on a GPU", "free on GPU 0"});
}

TEST_F(CudaRun, AModelLargerThanTheGpuIsNotLoaded) {
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}});  // 100 KiB of weights in fp32
  const std::map<std::string, std::string> tiny{{"UPCYCLE_EMUL_MEMORY", "50000"}};
  const std::string ids = small.write_ids("ids.json", {72, 101, 108});
  for (Words words : {Words{"score", run, "--ids=" + ids}, Words{"eval", run, "--data=" + file("valid")},
                      Words{"generate", run, "The", "--tokenizer=bytes"}}) {
    words.push_back("--device=cuda");
    expect_one_line(run_cuda(words, 1, tiny), {"memory: found", "more ranks"});
  }
}

TEST_F(CudaRefused, AnOlderGpu) {
  const std::map<std::string, std::string> older{{"UPCYCLE_EMUL_CAPABILITY", "86"}};
  const Words bad{"device: found cuda on GPU 0 of compute capability 8.6, expected at least 9.0", "--device=cpu"};
  for (const int ranks : {1, 2}) expect_one_line(run_cuda({"train", config}, ranks, older), bad);
  expect_one_line(run_cuda({"bench", "ops", config}, 1, older), bad);
  expect_one_line(run_cuda({"eval", file("none"), "--data=" + file("valid"), "--device=cuda"}, 1, older), bad);
}

TEST_F(CudaRefused, AModelThatItsKernelsCanNotCompute) {
  struct Limit {
    std::string key;
    Words overrides;
    std::string says;
  };
  const Limit limits[] = {
      {"model.num_local_experts", {"--model.num_local_experts=513"}, "found 513, expected at most 512 on a GPU"},
      {"model.head_dim", {"--model.head_dim=258"}, "found 258, expected at most 256 on a GPU"},
      {"model.hidden_size",
       {"--model.hidden_size=60000", "--model.head_dim=8"},
       "found 60000, expected at most 57856 on a GPU"}};
  for (const Limit& limit : limits)
    for (Words words : {Words{"plan", config}, Words{"train", config}, Words{"bench", "step", config}}) {
      words.insert(words.end(), limit.overrides.begin(), limit.overrides.end());
      expect_one_line(run_cuda(words), {"run.json: " + limit.key + ": " + limit.says});
    }
  expect_one_line(
      run_cuda({"train", config, "--model.num_local_experts=513", "--upcycle.at_step=1", "--train.steps=2"}),
      {"model.num_local_experts: found 513"});
  expect_one_line(run_cuda({"bench", "ops", config, "--model.num_local_experts=513"}), {"found 513"});
}

TEST_F(CudaRefused, AWindowThatABenchDoesNotReach) {
  const Words words{
      "bench", "step", config, "--steps=3", "--warmup=1", "--train.profile_step_start=4", "--train.profile_step_end=5"};
  expect_one_line(run_cuda(words), {"train.profile_step_end: found 5, expected at most the 4 steps"});
}

TEST_F(CudaRefused, AnUnknownDevice) {
  expect_one_line(run_cuda({"score", file("none"), "--ids=" + config, "--device=tpu"}),
                  {"device: found 'tpu', expected cpu | cuda"});
}

}  // namespace
}  // namespace upcycle
