#include <fmt/core.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/cli/run_program.h"
#include "tests/core/other_value.h"

// `upcycle train` as a user upcycles: from a dense run, in a live run, resumed, and with settings that do not fit.
namespace upcycle {
namespace {
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Every file below a folder with its bytes.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    files[entry.path().string()] = entry.is_regular_file() ? text_of(entry.path()) : "a folder";
  return files;
}

std::vector<nlohmann::json> metrics(const std::string& run) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(run + "/metrics.jsonl");
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

class UpcycleRun : public ::testing::Test {
 protected:
  static inline fs::path folder_;

  static void SetUpTestSuite() {
    folder_ = ::testing::TempDir() + "upcycle_run_test_" + std::to_string(getpid());
    fs::create_directories(folder_);
    std::string text;
    for (int i = 0; i < 300; ++i) text += fmt::format("{} bottles of beer on the wall, {} bottles of beer. ", i, i);
    std::ofstream(folder_ / "text.txt") << text;
    const Outcome o = run_upcycle(
        {"tokenize", "--tokenizer", "bytes", "--output", path("set"), (folder_ / "text.txt").string(), "--json"});
    ASSERT_EQ(o.exit_code, 0) << o.err;
    Words words = model();
    words.push_back("--train.steps=3");
    expect_trained(words, "dense");
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static std::string path(const std::string& name) { return (folder_ / name).string(); }
  static Words model() {
    return {"--model.hidden_size=16",        "--model.intermediate_size=12", "--model.num_hidden_layers=2",
            "--model.num_attention_heads=2", "--model.vocab_size=260",       "--model.initializer_range=0.2"};
  }

  // `upcycle train` into the run folder `run`.
  static Outcome train(const Words& words, const std::string& run) {
    Words all{"train",        "--checkpoint.dir=" + path(run), "--data.train=" + path("set"), "--train.seq_length=16",
              "--dtype=fp32", "--train.global_batch_size=4",   "--train.schedule=constant",   "--train.lr=0.01"};
    all.insert(all.end(), words.begin(), words.end());
    return run_upcycle(all, {{"OMP_NUM_THREADS", "1"}});
  }
  static Outcome expect_trained(const Words& words, const std::string& run) {
    Outcome o = train(words, run);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return o;
  }
  // One line, exit code 2, and the run folder as it was (or absent).
  static std::string refused(const Words& words, const std::string& run) {
    const bool there = fs::exists(path(run));
    const auto before = there ? contents(path(run)) : std::map<std::string, std::string>{};
    const std::string line = one_line_error(train(words, run));
    EXPECT_EQ(fs::exists(path(run)), there) << line;
    EXPECT_EQ(there ? contents(path(run)) : before, before) << line;
    return line;
  }
  static void expect_parts(const std::string& line, std::initializer_list<const char*> parts) {
    for (const char* part : parts) EXPECT_NE(line.find(part), std::string::npos) << line << " lacks " << part;
  }
  static Words moe(const Words& more = {}) {
    Words words{"--init.upcycle=" + path("dense"), "--model.num_local_experts=4", "--train.steps=2"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static Words live(const Words& more = {}) {
    Words words = model();
    for (const char* w : {"--model.num_local_experts=4", "--upcycle.at_step=2", "--checkpoint.every=1"})
      words.push_back(w);
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(UpcycleRun, StartsFromTheDenseModelsFunction) {
  expect_trained({"--init.load=" + path("dense"), "--train.steps=1"}, "cpt");
  const double want = metrics(path("cpt")).at(0)["loss"];
  EXPECT_LT(want, std::log(260)) << "the dense run learnt something";
  for (const Words& more :
       {Words{}, Words{"--model.shared_expert=true"},
        Words{"--upcycle.mode=virtual_group", "--upcycle.scale=down", "--model.moe_intermediate_size=6"}}) {
    const std::string run = "exact" + std::to_string(more.size());
    const Outcome o = expect_trained(moe(more), run);
    expect_parts(o.err, {"upcycled", "relative L2", "promises the dense function"});
    const auto lines = metrics(path(run));
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_NEAR(double(lines[0]["loss"]), want, 1e-5);
    EXPECT_EQ(lines[0]["step"], 1);
    EXPECT_EQ(lines[0]["moe_layers"].size(), 2u);
  }
  const Outcome o = expect_trained(moe({"--upcycle.drop_ratio=0.5"}), "dropped");
  expect_parts(o.err, {"relative L2", "does not promise"});
  EXPECT_GT(std::abs(double(metrics(path("dropped")).at(0)["loss"]) - want), 1e-4);
}

// Mixtral has no word for a shared expert; Qwen2-MoE has one with a gate, which is written as zeros.
TEST_F(UpcycleRun, AnExportHasTheFunctionAndACard) {
  expect_trained(moe({"--model.shared_expert=true", "--data.valid=" + path("set"), "--train.eval_every=1",
                      "--train.eval_steps=1", "--checkpoint.every=1"}),
                 "shared");
  const auto exported = [&](const std::string& model, const std::string& out, const Words& more = {}) {
    Words words{"export", path(model), path(out)};
    words.insert(words.end(), more.begin(), more.end());
    return run_upcycle(words);
  };
  ASSERT_EQ(exported("shared", "shared_hf").exit_code, 0);
  EXPECT_EQ(nlohmann::json::parse(text_of(path("shared_hf/config.json")))["model_type"], "qwen2_moe");
  std::ofstream(path("ids.json")) << R"({"ids": [5, 9, 70, 71, 72, 101, 102, 3]})";
  const auto score = [&](const std::string& model) {
    const Outcome o = run_upcycle({"score", path(model), "--ids", path("ids.json"), "--dtype", "fp32", "--json"});
    EXPECT_EQ(o.exit_code, 0) << o.err;
    return o.exit_code == 0 ? double(nlohmann::json::parse(o.out)["mean_nll"]) : NAN;
  };
  EXPECT_NEAR(score("shared_hf"), score("shared"), 1e-6);
  const std::string card = text_of(path("shared_hf/README.md"));
  for (const std::string part :
       {"library_name: transformers", "# shared_hf", "Qwen2-MoE (`qwen2_moe`), fp32", "4, 2 per token, 12 wide",
        "upcycled from `dense`: mode `copy`", "logits of a batch changed by ",
        "trained on 128 tokens in 2 steps of `set`", "| valid | "})
    EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  EXPECT_EQ(card.find(folder_.string()), std::string::npos) << "folders are nobody's business";
  // An earlier step knows nothing of later evaluations; a model without a history has the sizes.
  ASSERT_EQ(exported("shared/step_00000001", "first_hf").exit_code, 0);
  const std::string first = text_of(path("first_hf/README.md"));
  EXPECT_NE(first.find("trained on 64 tokens in 1 steps"), std::string::npos) << first;
  EXPECT_NE(first.find(" | 64 |"), std::string::npos) << first;
  EXPECT_EQ(first.find(" | 128 |"), std::string::npos) << first;
  ASSERT_EQ(exported("shared_hf", "again_hf", {"--dtype", "bf16"}).exit_code, 0);
  EXPECT_EQ(text_of(path("again_hf/README.md")).find("## Recipe"), std::string::npos);
  expect_parts(one_line_error(exported("shared", "mixtral_hf", {"--to", "mixtral"})),
               {"model.shared_expert", "true", "Mixtral"});
  EXPECT_FALSE(fs::exists(path("mixtral_hf")));
}

// No family with experts has Gemma's activation: what it becomes by upcycling is trained and read here only.
TEST_F(UpcycleRun, AGemmaGoesOutUntilItHasExperts) {
  Words gemma = model();
  gemma.insert(gemma.end(), {"--model.hidden_act=gelu_tanh", "--model.norm_unit_offset=true", "--train.steps=2",
                             "--model.embedding_multiplier=0", "--model.tie_word_embeddings=true"});
  expect_trained(gemma, "gemma");
  const Outcome exported = run_upcycle({"export", path("gemma"), path("gemma_hf")});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  EXPECT_EQ(nlohmann::json::parse(text_of(folder_ / "gemma_hf/config.json"))["model_type"], "gemma");

  Words words = {"--init.upcycle=" + path("gemma_hf"), "--model.num_local_experts=4", "--train.steps=2"};
  expect_trained(words, "gemma_moe");  // which ends where the logits are not the dense model's
  const auto steps = metrics(path("gemma_moe"));
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_LT(double(steps[1]["loss"]), double(steps[0]["loss"]));
  for (const Words& reading : {Words{"eval", path("gemma_moe"), "--data", path("set")},
                               Words{"generate", path("gemma_moe"), "9 bottles", "--tokenizer=bytes"}}) {
    const Outcome read = run_upcycle(reading);
    EXPECT_EQ(read.exit_code, 0) << read.err;
  }
  expect_parts(one_line_error(run_upcycle({"export", path("gemma_moe"), path("gemma_moe_hf")})),
               {"model.hidden_act", "gelu_tanh", "silu", "cannot be exported"});
  EXPECT_FALSE(fs::exists(path("gemma_moe_hf")));
}

TEST_F(UpcycleRun, ARelativeFolderWithASlashIsTheSameStart) {
  expect_trained(moe(), "same");
  Words words = moe({"--init.upcycle=" + path("./dense/")});
  words.push_back("--train.steps=3");
  const Outcome o = expect_trained(words, "same");
  expect_parts(o.err, {"resumed", "train.steps: 2 -> 3"});
}

TEST_F(UpcycleRun, AnImpossibleUpcyclingIsRefused) {
  expect_parts(refused(moe({"--init.load=" + path("dense")}), "bad"), {"init.load", "init.upcycle"});
  expect_parts(refused({"--init.load=" + path("dense"), "--train.steps=1", "--model.hidden_size=32"}, "bad"),
               {"model.hidden_size", "32", "16", "dense"});
  expect_parts(refused({"--init.load=" + path("dense"), "--train.steps=1", "--model.num_local_experts=4"}, "bad"),
               {"model.num_local_experts", "4", "0", "dense"});
  expect_parts(refused(moe({"--model.intermediate_size=24"}), "bad"), {"model.intermediate_size", "24", "12"});
  expect_parts(refused({"--init.upcycle=" + path("dense"), "--train.steps=1"}, "bad"), {"model.num_local_experts"});
  expect_parts(refused(moe({"--model.num_experts_per_tok=5"}), "bad"), {"num_experts_per_tok", "5", "4"});
  expect_parts(refused(moe({"--model.moe_intermediate_size=6"}), "bad"), {"moe_intermediate_size", "6", "12"});
  expect_parts(refused(moe({"--upcycle.mode=virtual_group", "--model.moe_intermediate_size=4"}), "bad"),
               {"num_local_experts", "4", "3"});
  expect_parts(refused(moe({"--upcycle.mode=virtual_groups"}), "bad"), {"upcycle.mode", "virtual_group"});
  expect_parts(refused(moe({"--upcycle.at_step=1"}), "bad"), {"init.upcycle", "upcycle.at_step"});
  expect_parts(refused({"--init.upcycle=" + path("nothing"), "--model.num_local_experts=4", "--train.steps=1"}, "bad"),
               {"nothing"});
  expect_parts(refused(live({"--train.steps=2"}), "bad"), {"upcycle.at_step", "2"});
  Words no_experts = model();
  no_experts.insert(no_experts.end(), {"--upcycle.at_step=1", "--train.steps=2"});
  expect_parts(refused(no_experts, "bad"), {"model.num_local_experts"});
  // What would fail only when the run converts fails when it starts.
  expect_parts(refused(live({"--train.steps=4", "--train.freeze=[\"*.mlp.*\"]"}), "bad"), {"train.freeze", "*.mlp.*"});
}

TEST_F(UpcycleRun, TheFieldsOfExpertsAreUpcyclingsToSetAndNotLoads) {
  Words all = moe();
  for (const Field& field : fields()) {
    if (!field.of_experts) continue;
    all.push_back("--" + field.key + "=" + other_value({}, field));
    expect_parts(refused({"--init.load=" + path("dense"), "--train.steps=1", all.back()}, "bad"),
                 {field.key.c_str(), "the model is inherited"});
  }
  all.insert(all.end(), {"--model.num_local_experts=4", "--upcycle.mode=virtual_group"});  // what fits the others
  all.push_back("--model.moe_intermediate_size=6");
  all.insert(all.end(), {"--model.shared_expert_size=12", "--model.shared_expert_gate=false"});
  expect_trained(all, "all_set");
}

TEST_F(UpcycleRun, AnMoeIsNotUpcycledAgain) {
  expect_trained(moe(), "moe");
  expect_parts(refused({"--init.upcycle=" + path("moe"), "--model.num_local_experts=8", "--train.steps=1"}, "bad"),
               {"dense model", "4 experts"});
  expect_parts(
      refused({"--init.load=" + path("moe"), "--model.num_local_experts=8", "--upcycle.at_step=1", "--train.steps=2"},
              "bad"),
      {"dense model", "4 experts"});
}

TEST_F(UpcycleRun, AUsedFolderTakesNoOtherRun) {
  expect_trained(moe(), "used");
  const Words more{"--train.steps=3"};
  expect_parts(refused(moe({"--checkpoint.resume=false"}), "used"), {"checkpoint.resume", "used"});
  expect_parts(refused({"--init.load=" + path("dense"), "--train.steps=3"}, "used"), {"used", "upcycle ", "load "});
  Words random = model();
  random.push_back("--train.steps=3");
  expect_parts(refused(random, "used"), {"used", "upcycle ", "random"});
  expect_parts(refused(moe({"--train.steps=3", "--upcycle.drop_ratio=0.5"}), "used"), {"upcycle.drop_ratio", "0.5"});
  expect_parts(refused({"--init.upcycle=" + path("dense"), "--model.num_local_experts=8", "--train.steps=3"}, "used"),
               {"model.num_local_experts", "8", "4"});
  expect_parts(refused(moe({"--train.steps=3", "--model.hidden_size=32"}), "used"), {"model.hidden_size", "32", "16"});
  expect_parts(refused(moe({"--train.steps=3", "--seed=2"}), "used"), {"seed", "found 2", "expected 1"});
  const Outcome o = expect_trained(moe({"--train.steps=3"}), "used");
  expect_parts(o.err, {"resumed", "step 2"});
  EXPECT_EQ(metrics(path("used")).size(), 3u);
}

TEST_F(UpcycleRun, MomentsOfAnotherOptimizerOrNoneDoNotResumeUnderOneThatKeepsThem) {
  expect_trained(moe({"--train.optimizer=sgd"}), "sgd");
  expect_parts(refused(moe({"--train.steps=3"}), "sgd"), {"0 of the 2 moments", "optimizer", "adamw", "init.load"});
  expect_trained(moe({"--train.optimizer=lion"}), "lion");
  expect_parts(refused(moe({"--train.steps=3"}), "lion"), {"train.optimizer: found adamw", "lion", "init.load"});
  expect_trained(moe({}), "adamw");
  expect_parts(refused(moe({"--train.optimizer=lion", "--train.steps=3"}), "adamw"),
               {"train.optimizer: found lion", "adamw", "sgd", "init.load"});
  expect_trained(moe({"--train.optimizer=lion", "--train.steps=3"}), "lion");
}

// As if the run had been killed after `step`: later steps were never published.
void cut_back(const fs::path& run, int step, int steps) {
  for (int s = step + 1; s <= steps; ++s) fs::remove_all(run / fmt::format("step_{:08d}", s));
  std::ofstream(run / "latest") << fmt::format("step_{:08d}\n", step);
}

TEST_F(UpcycleRun, ALiveRunConvertsAndResumesOnEitherSide) {
  const Outcome o = expect_trained(live({"--train.steps=5"}), "live");
  expect_parts(o.err, {"step 2: upcycled in place to 4 experts", "promises the dense function"});
  const auto want = metrics(path("live"));
  ASSERT_EQ(want.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(want[i]["step"], i + 1);
    EXPECT_EQ(want[i]["moe_layers"].size(), i < 2 ? 0u : 2u) << "step " << i + 1;
  }
  // The dense twin takes the same third step from the same function: the loss is that of copies, to rounding.
  Words dense = model();
  dense.push_back("--train.steps=3");
  expect_trained(dense, "twin");
  EXPECT_EQ(want[1]["loss"], metrics(path("twin")).at(1)["loss"]);
  EXPECT_NEAR(double(want[2]["loss"]), double(metrics(path("twin")).at(2)["loss"]), 1e-5);

  // Killed before, at and after the conversion.
  for (const int killed : {1, 2, 3}) {
    const std::string run = "live_" + std::to_string(killed);
    fs::copy(path("live"), path(run), fs::copy_options::recursive);
    cut_back(path(run), killed, 5);
    const Outcome again = expect_trained(live({"--train.steps=5"}), run);
    expect_parts(again.err, {"resumed"});
    EXPECT_EQ(again.err.find("upcycled in place") != std::string::npos, killed < 3);
    const auto lines = metrics(path(run));
    ASSERT_EQ(lines.size(), static_cast<std::size_t>(5 + 5 - killed));
    for (int step = killed + 1; step <= 5; ++step) {
      const auto& got = lines[static_cast<std::size_t>(5 + step - killed - 1)];
      const auto& line = want[static_cast<std::size_t>(step - 1)];
      for (const char* key : {"step", "tokens", "loss", "aux_loss", "grad_norm"})
        EXPECT_EQ(got[key], line[key]) << key << " at step " << step << " after a kill at " << killed;
    }
  }
  // What the run saved as its config starts the same run, experts and all.
  const Outcome again = run_upcycle({"train", path("live") + "/run.json", "--checkpoint.dir=" + path("from_json")});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(metrics(path("from_json")).back()["loss"], want[4]["loss"]);
  expect_parts(refused(live({"--train.steps=5", "--upcycle.at_step=3"}), "live"), {"at step 2", "at step 3"});
  expect_parts(refused(live({"--train.steps=5", "--model.num_local_experts=8"}), "live"),
               {"model.num_local_experts", "8", "4"});
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// One expert per token whose weight is always 1: training warns that its router gets no gradient from the loss.
TEST_F(UpcycleRun, OneExpertATokenIsWarnedOf) {
  const std::string warning = "warning: model.num_experts_per_tok = 1 under model.router_softmax = topk_then_softmax";
  const auto expect = [&](std::size_t times, const Outcome& o) {
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_EQ(count(o.err, warning), times) << o.err;
    EXPECT_EQ(count(o.err, "use softmax_then_topk"), times) << o.err;
  };
  const std::string k1 = "--model.num_experts_per_tok=1", softmax_first = "--model.router_softmax=softmax_then_topk";
  expect(1, train(moe({k1}), "k1"));
  expect(1, train(moe({k1, "--train.steps=3"}), "k1"));  // resumed
  expect(1, train(live({k1, "--train.steps=3"}), "k1_live"));
  expect(0, train(moe(), "k2"));
  expect(0, train(moe({k1, softmax_first}), "k1_softmax_first"));
  expect(0, train(moe({k1, "--model.num_local_experts=1"}), "one_expert"));
  const auto plan = [](const Words& more) {
    Words words{"plan", "--train.seq_length=16", "--train.global_batch_size=4", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return run_upcycle(words);
  };
  expect(1, plan(moe({k1})));
  expect(0, plan(moe({k1, softmax_first})));
}

// On two ranks, which both find the same fault: one line, from rank 0.
TEST_F(UpcycleRun, TwoRanksConvertAndAgreeOnWhatIsRefused) {
  const auto train_2 = [](const Words& words, const std::string& run) {
    Words all{UPCYCLE_ROOT "/launch/run_local.sh",
              "-n",
              "2",
              "train",
              "--checkpoint.dir=" + path(run),
              "--data.train=" + path("set"),
              "--train.seq_length=16",
              "--dtype=fp32",
              "--train.global_batch_size=4",
              "--train.schedule=constant",
              "--train.lr=0.01"};
    all.insert(all.end(), words.begin(), words.end());
    return run_program(all, {{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}});
  };
  const auto refused_2 = [&](const Words& words) {
    const Outcome o = train_2(words, "bad2");
    EXPECT_EQ(o.exit_code, 2) << o.err;
    const std::size_t at = o.err.find("upcycle: ");
    EXPECT_NE(at, std::string::npos) << o.err;
    if (at == std::string::npos) return o.err;
    EXPECT_EQ(o.err.find("upcycle: ", at + 1), std::string::npos) << o.err;
    EXPECT_FALSE(fs::exists(path("bad2"))) << o.err;
    return o.err.substr(at, o.err.find('\n', at) - at);
  };
  expect_parts(refused_2({"--init.upcycle=" + path("nothing"), "--model.num_local_experts=4", "--train.steps=1"}),
               {"nothing", "no such folder"});
  expect_parts(refused_2(moe({"--model.num_experts_per_tok=5"})), {"num_experts_per_tok"});
  // An MoE that the ranks can not hold is refused before the dense steps.
  expect_parts(refused_2(live({"--train.steps=4", "--parallel.ep=2", "--model.num_local_experts=5"})),
               {"num_local_experts"});

  (void)expect_trained(live({"--train.steps=4"}), "ranks1");
  const auto a = metrics(path("ranks1"));
  for (const char* layout : {"--parallel.tp=1", "--parallel.tp=2"}) {
    const std::string run = std::string("ranks2") + layout;
    const Outcome two = train_2(live({"--train.steps=4", layout}), run);
    ASSERT_EQ(two.exit_code, 0) << two.err;
    expect_parts(two.err, {"step 2: upcycled in place to 4 experts"});
    const auto b = metrics(path(run));
    ASSERT_EQ(b.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(double(a[i]["loss"]), double(b[i]["loss"]), 1e-5) << layout << " step " << i + 1;
  }
}

}  // namespace
}  // namespace upcycle
