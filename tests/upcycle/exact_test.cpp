#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "tests/real_models.h"
#include "tests/upcycle/models.h"

// The table of promises, measured on a real model and real text: stories260K (H 64, F 172, L 5) and its reference ids.
namespace upcycle::test {
namespace {

struct Combination {
  UpcycleConfig upcycle;
  ModelConfig target;
  std::string text() const {
    return fmt::format("E {} k {} moe_F {} {} scale {} {} shared {} every {} noise {} drop {} router_std {}",
                       target.num_local_experts, target.num_experts_per_tok, target.moe_intermediate_size, upcycle.mode,
                       upcycle.scale, target.router_softmax, target.shared_expert, target.moe_every_n_layers,
                       upcycle.noise_std, upcycle.drop_ratio, upcycle.router_std);
  }
};

constexpr std::int64_t kF = 172;

// E 2, 4, 8 x every k x copies and virtual groups of 2 and 4 x `rest`.
template <class Rest>
std::vector<Combination> combinations(Rest&& rest) {
  std::vector<Combination> all;
  for (const std::int64_t E : {2, 4, 8})
    for (std::int64_t k = 1; k <= E; ++k)
      for (const std::int64_t G : {1, 2, 4})
        for (const char* softmax : {"topk_then_softmax", "softmax_then_topk"}) {
          if (E % G != 0 || k % G != 0) continue;
          Combination c;
          c.upcycle.mode = G == 1 ? "copy" : "virtual_group";
          c.target = experts(E, k, G == 1 ? 0 : kF / G, softmax);
          rest(c, [&all](const Combination& made) { all.push_back(made); });
        }
  return all;
}

class RealModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string dir = real_models();
    if (dir.empty()) GTEST_SKIP();
    dense = open_model(dir + "/stories260K/hf");
    const auto reference = nlohmann::json::parse(std::ifstream(dir + "/stories260K/hf/reference.json"));
    tokens = reference["ids"].get<std::vector<std::int32_t>>();
    want_last = reference["logits_last_first8"].get<std::vector<double>>();
    tokens_short.assign(tokens.begin(), tokens.begin() + 24);
  }

  // Relative L2 of the logits, computed here and not by the code under test.
  double change(const Combination& c, DType dtype, const std::vector<std::int32_t>& on,
                const std::vector<float>& before, ModelConfig* model = nullptr) {
    const ModelConfig moe = upcycled_model(dense->model(), c.target, c.upcycle, "test");
    if (model != nullptr) *model = moe;
    const auto source = make_upcycled_source(*dense, moe, c.upcycle, 21);
    const std::vector<float> after = logits_of(rig, mesh, *source, dtype, on);
    return distance(after, before) / norm(before);
  }

  Rig rig;
  Mesh mesh = make_single_mesh();
  std::unique_ptr<TensorSource> dense;
  std::vector<std::int32_t> tokens, tokens_short;
  std::vector<double> want_last;
};

TEST_F(RealModel, DenseLogitsAreTheReferences) {
  const std::vector<float> all = logits_of(rig, mesh, *dense, DType::F32, tokens);
  const float* last = all.data() + all.size() - static_cast<std::size_t>(dense->model().vocab_size);
  for (std::size_t i = 0; i < want_last.size(); ++i) EXPECT_NEAR(last[i], want_last[i], 1e-4);
}

// The modes that the table calls exact, on the whole reference text.
std::vector<Combination> exact_modes() {
  return combinations([](Combination c, auto add) {
    const bool topk_first = c.target.router_softmax == "topk_then_softmax";
    const bool all = c.target.num_experts_per_tok == c.target.num_local_experts;
    c.upcycle.scale = c.upcycle.mode == "copy" ? "none" : "down";
    if (topk_first || all) add(c);
    if (topk_first) {
      c.target.moe_every_n_layers = 2;
      add(c);
      c.target.moe_every_n_layers = 1;
    }
    c.target.shared_expert = true;
    add(c);
  });
}

TEST_F(RealModel, ExactModesKeepTheFunctionInFp32) {
  const std::vector<float> before = logits_of(rig, mesh, *dense, DType::F32, tokens);
  double worst = 0;
  for (const Combination& c : exact_modes()) {
    ModelConfig moe;
    const double d = change(c, DType::F32, tokens, before, &moe);
    EXPECT_TRUE(promises_exact(moe, c.upcycle)) << c.text();
    EXPECT_LE(d, 1e-5) << c.text();
    worst = std::max(worst, d);
  }
  RecordProperty("worst", fmt::format("{:.3g}", worst));
  EXPECT_GT(worst, 0) << "every mode bitwise: was an MoE computed at all?";
}

// Expert counts that do not fill a vector register: rows tied within a group must still give tied logits.
TEST_F(RealModel, GroupsStayTogetherAtOddExpertCounts) {
  const std::vector<float> before = logits_of(rig, mesh, *dense, DType::F32, tokens);
  for (const auto& [E, k, G] : {std::array{6, 2, 2}, std::array{6, 4, 2}, std::array{10, 2, 2}, std::array{12, 4, 4},
                                std::array{20, 8, 4}, std::array{36, 4, 4}})
    for (const double router_std : {1e-4, 0.02, 1.0}) {
      Combination c{{"virtual_group", "down"}, experts(E, k, kF / G)};
      c.upcycle.router_std = router_std;
      EXPECT_LE(change(c, DType::F32, tokens, before), 1e-5) << c.text();
    }
}

TEST_F(RealModel, ExactModesKeepTheFunctionInBf16) {
  const std::vector<float> before = logits_of(rig, mesh, *dense, DType::BF16, tokens);
  double worst = 0;
  for (const Combination& c : exact_modes()) {
    const double d = change(c, DType::BF16, tokens, before);
    EXPECT_LE(d, 2e-2) << c.text();
    worst = std::max(worst, d);
  }
  RecordProperty("worst", fmt::format("{:.3g}", worst));
}

// The README's table of modes, written independently of promises_exact.
bool table_says_exact(const Combination& c) {
  const UpcycleConfig& u = c.upcycle;
  if (c.target.shared_expert) return true;
  if (u.noise_std > 0 || u.drop_ratio > 0) return false;
  const bool groups = c.target.moe_intermediate_size != 0,
             all = c.target.num_experts_per_tok == c.target.num_local_experts;
  if (c.target.router_softmax == "topk_then_softmax" || all) return groups ? u.scale == "down" : true;
  return u.router_std == 0 && u.scale == "down";
}

TEST_F(RealModel, PromisesHoldInEveryCombination) {
  const std::vector<float> before = logits_of(rig, mesh, *dense, DType::F32, tokens_short);
  int exact = 0, other = 0;
  const std::vector<Combination> all = combinations([](Combination c, auto add) {
    const std::int64_t k = c.target.num_experts_per_tok;
    if (k != 1 && k % 2 != 0) return;
    for (const char* scale : {"none", "down", "cube_root"}) {
      c.upcycle.scale = scale;
      for (const double router_std : {0.0, 0.02}) {
        c.upcycle.router_std = router_std;
        add(c);
      }
    }
    c.upcycle.router_std = 0.02;
    c.upcycle.scale = "down";
    for (const bool shared : {false, true}) {
      c.target.shared_expert = shared;
      for (const auto& [noise, drop] : {std::pair{0.02, 0.0}, std::pair{0.0, 0.5}}) {
        c.upcycle.noise_std = noise;
        c.upcycle.drop_ratio = drop;
        add(c);
      }
    }
  });
  for (const Combination& c : all) {
    ModelConfig moe;
    const double d = change(c, DType::F32, tokens_short, before, &moe);
    const bool promised = promises_exact(moe, c.upcycle);
    EXPECT_EQ(promised, table_says_exact(c)) << c.text();
    if (promised)
      EXPECT_LE(d, 1e-5) << c.text();
    else
      EXPECT_GT(d, 1e-5) << c.text() << ": exact, but not promised";
    ++(promised ? exact : other);
  }
  EXPECT_GT(exact, 50);
  EXPECT_GT(other, 50);
}

Config run_config(const Combination& c, const ModelConfig& dense, const char* dtype) {
  Config config;
  config.dtype = dtype;
  config.seed = 21;
  config.model = upcycled_model(dense, c.target, c.upcycle, "test");
  config.upcycle = c.upcycle;
  config.train.steps = 1;
  config.train.seq_length = 64;
  config.train.global_batch_size = config.train.micro_batch_size = 1;
  return config;
}

FixedSequences sequence(const std::vector<std::int32_t>& tokens) {
  return {64, {tokens.begin(), tokens.begin() + 64}, {tokens.begin() + 1, tokens.begin() + 65}};
}

TEST_F(RealModel, TheReportIsWhatWasMeasuredAndTheFirstLossTheDenseModels) {
  const FixedSequences text = sequence(tokens);
  for (const char* dtype : {"fp32", "bf16"}) {
    const DType storage = std::string(dtype) == "fp32" ? DType::F32 : DType::BF16;
    const std::vector<std::int32_t> probe(tokens.begin(), tokens.begin() + 48);
    const std::vector<float> before = logits_of(rig, mesh, *dense, storage, probe);
    Config plain;
    plain.dtype = dtype;
    plain.model = dense->model();
    plain.train = run_config({{}, experts(2, 1)}, dense->model(), dtype).train;
    Trainer cpt = make_trainer(plain, mesh, *rig.device, *rig.stream, *rig.ops);
    load_trainer_weights(cpt, *dense);
    const double dense_loss = train_step(cpt, text.source()).loss;
    EXPECT_LT(dense_loss, 2) << "the reference text is the model's own";

    for (const Combination& c :
         {Combination{{}, experts(8, 2)}, Combination{{"virtual_group", "down"}, experts(8, 4, 43)},
          Combination{{"virtual_group", "none"}, experts(8, 4, 43)},
          Combination{{}, experts(4, 4, 0, "softmax_then_topk")}}) {
      const Config config = run_config(c, dense->model(), dtype);
      Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
      const UpcycleReport report = upcycle_from_checkpoint(t, *dense, probe);
      EXPECT_EQ(report.exact, promises_exact(config.model, c.upcycle));
      EXPECT_EQ(report.tolerance, storage == DType::F32 ? 1e-5 : 2e-2);
      const double d = change(c, storage, probe, before);
      EXPECT_NEAR(report.change, d, 1e-7 + 1e-3 * d) << c.text();
      EXPECT_NE(report.text().find(fmt::format("{:.3g}", report.change)), std::string::npos) << report.text();
      const double loss = train_step(t, text.source()).loss;
      if (report.exact)
        EXPECT_NEAR(loss, dense_loss, storage == DType::F32 ? 1e-5 : 1e-2) << c.text();
      else
        EXPECT_GT(std::abs(loss - dense_loss), 1e-2) << c.text();
    }
  }
}

TEST_F(RealModel, ABrokenPromiseStopsTheRun) {
  Trainer t =
      make_trainer(run_config({{}, experts(4, 2)}, dense->model(), "fp32"), mesh, *rig.device, *rig.stream, *rig.ops);
  EXPECT_NO_THROW((void)judge_change(t, 9e-6));
  EXPECT_THROW((void)judge_change(t, 1.1e-5), Error);
  EXPECT_THROW((void)judge_change(t, NAN), Error);
  t.config.upcycle.noise_std = 0.1;
  EXPECT_FALSE(judge_change(t, 0.5).exact);
}

}  // namespace
}  // namespace upcycle::test
