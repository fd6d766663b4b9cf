#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/schedule.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);
const FixedSequences data = random_sequences(40, 9, 37, 1);

// Other rates and decay for some parameters, and what each has, said a second time.
void set_groups(TrainConfig& t) {
  t.param_groups = {{"*.gate.weight", 0.1, 0},
                    {"*.experts.[13].*", 2},
                    {"*.experts.*", 5, 0.7},  // of 0 and 2
                    {"*norm*", 1, 0.2},
                    {"lm_head*", 0.5}};
  t.decoupled_lr = 3e-2;
  t.decoupled_min_lr = 1e-2;
}
struct Hand {
  double lr, decay;
};
Hand by_hand(const TrainConfig& c, const std::string& name, double lr, double decoupled) {
  const bool groups = !c.param_groups.empty(), norm = name.ends_with("norm.weight");
  if (!groups) return {lr, norm ? 0 : c.weight_decay};
  if (name == "model.embed_tokens.weight") return {decoupled, c.weight_decay};
  if (name == "lm_head.weight") return {0.5 * decoupled, c.weight_decay};
  if (norm) return {lr, 0.2};
  if (name.ends_with("block_sparse_moe.gate.weight")) return {0.1 * lr, 0};
  if (name.find(".experts.1.") != name.npos || name.find(".experts.3.") != name.npos) return {2 * lr, c.weight_decay};
  if (name.find(".experts.") != name.npos) return {5 * lr, 0.7};
  return {lr, c.weight_decay};
}

// The update in fp64 from the raw gradients, for every element of every row: AdamW or Lion with decoupled decay, or
// SGD.
struct Reference {
  std::map<std::string, std::vector<double>> w, m, v;
  std::map<std::string, std::int64_t> steps;
  int undecided = 0;  // elements whose sign is decided by the rounding of gradients: it is taken from the trainer

  explicit Reference(const Trainer& t) {
    for (const auto& [name, p] : state_of(t).parameters) {
      w[name].assign(p.master.begin(), p.master.end());
      m[name].resize(p.master.size());
      v[name].resize(p.master.size());
    }
  }

  void update(const Trainer& t, double scale, double general, double decoupled) {
    const TrainConfig& c = t.config.train;
    const TrainedState after = state_of(t);
    for (std::size_t i = 0; i < t.table().rows.size(); ++i) {
      const ParamRow& row = t.table().rows[i];
      if (t.optimizer.frozen[i] != 0) continue;
      const std::vector<float> g = gradient_of(t, row);
      const auto [lr, decay] = by_hand(c, row.name, general, decoupled);
      const auto n = static_cast<double>(++steps[row.name]);
      for (std::size_t j = 0; j < g.size(); ++j) {
        double &W = w[row.name][j], &M = m[row.name][j], &V = v[row.name][j];
        const double G = scale * g[j];
        if (c.optimizer == "sgd") {
          W -= lr * (G + decay * W);
          continue;
        }
        if (c.optimizer == "lion") {
          const double direction = c.beta1 * M + (1 - c.beta1) * G, kept = W - lr * decay * W;
          const bool decided = std::abs(direction) >= 1e-4 * (c.beta1 * std::abs(M) + (1 - c.beta1) * std::abs(G));
          undecided += decided ? 0 : 1;
          const double sign = decided ? direction : kept - static_cast<double>(after.parameters.at(row.name).master[j]);
          W = kept - (sign == 0 ? 0 : std::copysign(lr, sign));
          M = c.beta2 * M + (1 - c.beta2) * G;
          continue;
        }
        M = c.beta1 * M + (1 - c.beta1) * G;
        V = c.beta2 * V + (1 - c.beta2) * G * G;
        const double update = M / (1 - std::pow(c.beta1, n)) / (std::sqrt(V / (1 - std::pow(c.beta2, n))) + c.eps);
        W -= lr * (update + decay * W);
      }
    }
  }

  double distance_to(const Trainer& t) const {
    double worst = 0;
    for (const auto& [name, p] : state_of(t).parameters)
      for (std::size_t j = 0; j < p.master.size(); ++j) worst = std::max(worst, std::abs(p.master[j] - w.at(name)[j]));
    return worst;
  }
};

double norm_of_counted(const Trainer& t) {
  double sum = 0;
  for (std::size_t i = 0; i < t.table().rows.size(); ++i)
    if (t.optimizer.frozen[i] == 0) sum += std::pow(norm(gradient_of(t, t.table().rows[i])), 2);
  return std::sqrt(sum);
}

struct Case {
  const char* name;
  const char* optimizer = "adamw";
  double clip = 0.1;
  std::vector<std::string> freeze{};
  bool groups = false, tied = false;
};

class Updates : public ::testing::TestWithParam<Case> {};

TEST_P(Updates, FollowTheFp64Reference) {
  Config c = small_moe_config();
  c.train.optimizer = GetParam().optimizer;
  c.train.clip_grad = GetParam().clip;
  c.train.freeze = GetParam().freeze;
  if (GetParam().groups) set_groups(c.train);
  c.model.tie_word_embeddings = GetParam().tied;
  if (GetParam().tied) c.train.param_groups.pop_back();  // no lm_head
  c.train.lr = 1e-2;
  c.train.warmup_steps = 3;
  c.train.weight_decay = 0.3;
  c.train.eps = 1e-6;
  Trainer t = random_trainer(rig, c, mesh);
  Reference reference(t);
  for (int i = 0; i < 6; ++i) {
    const StepResult r = train_step(t, data.source());
    const double norm = norm_of_counted(t);
    const double scale = c.train.clip_grad > 0 ? std::min(1.0, c.train.clip_grad / (norm + 1e-6)) : 1;
    EXPECT_NEAR(r.grad_norm, norm, 1e-6 * norm);
    EXPECT_NEAR(floats_of(t, t.memory.scale)[0], scale, 1e-6);
    if (c.train.clip_grad == 0.1) {
      EXPECT_LT(scale, 0.5);  // it did clip
    }
    EXPECT_EQ(r.lr, learning_rate(c.train, i, 10));
    if (GetParam().groups) {
      EXPECT_GT(r.decoupled_lr, 2 * r.lr);
    }
    reference.update(t, scale, r.lr, r.decoupled_lr);
    EXPECT_LE(reference.distance_to(t), 2e-6 * (i + 1)) << "step " << i;
  }
  EXPECT_LE(reference.undecided, 6 * 2);  // of some 12,000 in each step
}

INSTANTIATE_TEST_SUITE_P(Runs, Updates,
                         ::testing::Values(Case{"AdamwClipped"}, Case{"AdamwWithoutClip", "adamw", 0},
                                           Case{"LionClipped", "lion"}, Case{"LionWithoutClip", "lion", 0},
                                           Case{"SgdClipped", "sgd"}, Case{"SgdWithoutClip", "sgd", 0},
                                           Case{"AdamwFrozen", "adamw", 0.1, {"*embed*", "*.experts.[13].*"}},
                                           Case{"AdamwGroups", "adamw", 0.1, {}, true},
                                           Case{"AdamwGroupsTied", "adamw", 0.1, {"*.experts.2.*"}, true, true},
                                           Case{"LionGroups", "lion", 0.1, {}, true},
                                           Case{"SgdGroups", "sgd", 0.1, {}, true}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Numerics, GradientNormCountsEveryElementOnce) {
  for (const bool tied : {false, true}) {
    Config c = small_moe_config();
    c.model.tie_word_embeddings = tied;
    Trainer t = random_trainer(rig, c, mesh);
    (void)compute_gradients(t, data.source());
    std::int64_t elements = 0;
    for (const OwnedPiece& p : t.optimizer.counted) elements += p.part.size();
    EXPECT_EQ(elements, count_parameters(c.model).total);
    const double norm = norm_of_counted(t);
    EXPECT_NEAR(clipped_norm(t), norm, 1e-6 * norm);
  }
}

TEST(Numerics, AdamwCountsStepsPerRow) {
  Config c = small_moe_config();
  c.train.weight_decay = 0;
  Trainer t = random_trainer(rig, c, mesh);
  for (int i = 0; i < 5; ++i) (void)train_step(t, data.source());
  // One expert's matrix starts afresh, as upcycling would leave it.
  const std::string name = "model.layers.1.block_sparse_moe.experts.2.w1.weight";
  for (std::size_t i = 0; i < t.table().rows.size(); ++i) {
    EXPECT_EQ(t.optimizer.row_steps[i], 5);
    if (t.table().rows[i].name == name) t.optimizer.row_steps[i] = 0;
  }
  for (const OwnedPiece& p : owned_pieces(t.table(), mesh.at, true)) {
    if (p.row->name != name) continue;
    rig.ops->fill(*rig.stream, shard_piece_of(t.memory.m, p), 0);
    rig.ops->fill(*rig.stream, shard_piece_of(t.memory.v, p), 0);
  }
  const std::vector<float> before = state_of(t).parameters.at(name).master;
  const double lr = train_step(t, data.source()).lr;
  const std::vector<float> after = state_of(t).parameters.at(name).master, g = gradient_of(t, *t.table().find(name));
  const float scale = floats_of(t, t.memory.scale)[0];
  int compared = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (std::abs(g[i] * scale) < 1e-5) continue;  // far above eps: the bias-corrected first step is lr, whatever g
    EXPECT_NEAR(before[i] - after[i], std::copysign(lr, g[i]), 0.01 * lr);
    ++compared;
  }
  EXPECT_GT(compared, 50);
  EXPECT_EQ(state_of(t).parameters.at(name).steps, 1);
  EXPECT_EQ(state_of(t).parameters.at("lm_head.weight").steps, 6);
}

TEST(WeightDecay, AppliesToMatricesOnly) {
  Config c = small_config();
  FixedSequences none = data;
  std::fill(none.targets.begin(), none.targets.end(), -1);  // no gradient: decay is all that moves a weight
  Trainer t = random_trainer(rig, c, mesh);
  const TrainedState before = state_of(t);
  const double lr = train_step(t, none.source()).lr;
  for (const auto& [name, p] : state_of(t).parameters) {
    const double kept = name.ends_with("norm.weight") ? 1 : 1 - lr * c.train.weight_decay;
    for (std::size_t i = 0; i < p.master.size(); ++i)
      ASSERT_NEAR(p.master[i], kept * before.parameters.at(name).master[i], 1e-7) << name;
    EXPECT_EQ(p.master == before.parameters.at(name).master, name.ends_with("norm.weight")) << name;
  }
}

// What a NaN would do to masters and moments can not be undone: the step stops before it updates.
TEST(Update, ADivergedStepStopsBeforeItTouchesTheState) {
  Trainer t = random_trainer(rig, small_config(), mesh);
  (void)train_step(t, data.source());
  const TrainedState before = state_of(t);
  std::vector<float> final_norm = floats_of(t, t.model->weights.final_norm);
  final_norm[0] = std::numeric_limits<float>::infinity();
  set_floats(t, t.model->weights.final_norm, final_norm);
  EXPECT_EQ(train_step(t, data.source()).skipped, Skipped::NotFinite);
  EXPECT_EQ(t.step, 1);
  for (const auto& [name, p] : state_of(t).parameters) {
    if (name == "model.norm.weight") continue;  // poisoned by hand
    EXPECT_EQ(p.master, before.parameters.at(name).master) << name;
    EXPECT_EQ(p.m, before.parameters.at(name).m) << name;
  }
}

TEST(Freeze, FrozenRowsStayBitForBitAndOutOfTheNorm) {
  for (const char* dtype : {"fp32", "bf16"}) {
    Config c = small_moe_config();
    c.dtype = dtype;
    Trainer all = random_trainer(rig, c, mesh);
    c.train.freeze = {"model.embed_tokens.weight", "model.layers.0.*", "*.experts.[12].w?.weight"};
    Trainer t = random_trainer(rig, c, mesh);
    const TrainedState before = state_of(t);
    const StepResult free = train_step(all, data.source()), frozen = train_step(t, data.source());
    EXPECT_EQ(free.loss, frozen.loss);
    EXPECT_LT(frozen.grad_norm, 0.95 * free.grad_norm);
    EXPECT_NEAR(frozen.grad_norm, norm_of_counted(t), 1e-6 * frozen.grad_norm);
    for (int i = 0; i < 3; ++i) (void)train_step(t, data.source());
    for (const auto& [name, p] : state_of(t).parameters) {
      const bool expected = name == "model.embed_tokens.weight" || name.starts_with("model.layers.0.") ||
                            name.find("experts.1.") != std::string::npos ||
                            name.find("experts.2.") != std::string::npos;
      EXPECT_EQ(p.master == before.parameters.at(name).master, expected) << name;
      EXPECT_EQ(p.steps, expected ? 0 : 4) << name;
    }
  }
}

TEST(Freeze, APatternWithoutAParameterIsAnError) {
  Config c = small_config();
  c.train.freeze = {"*norm*", "model.layers.7.*"};
  const std::string message = input_error_of([&] { (void)make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops); });
  EXPECT_TRUE(contains(message, "train.freeze"));
  EXPECT_TRUE(contains(message, "'model.layers.7.*'"));
}

TEST(Bf16, KeepsFp32MastersWhoseRoundingIsTheWeights) {
  for (const auto& [optimizer, masters, moments] :
       {std::tuple{"adamw", "fp32", "fp32"}, {"lion", "bf16_remainder", "bf16"}, {"sgd", "bf16_remainder", "fp32"}}) {
    Config c = small_moe_config();
    c.dtype = "bf16";
    c.train.optimizer = optimizer;
    c.train.master_dtype = masters;
    c.train.moment_dtype = moments;
    c.train.lr = 1e-3;
    Trainer t = random_trainer(rig, c, mesh);
    const TrainedState start = state_of(t);
    for (const auto& [name, p] : start.parameters) EXPECT_TRUE(p.weight == p.master) << name;
    for (int i = 0; i < 4; ++i) (void)train_step(t, data.source());
    std::size_t finer = 0;
    for (const auto& [name, p] : state_of(t).parameters) {
      for (std::size_t i = 0; i < p.weight.size(); ++i) {
        ASSERT_EQ(p.weight[i], to_float(to_bf16(p.master[i]))) << name;
        finer += p.weight[i] != p.master[i] ? 1 : 0;
      }
    }
    EXPECT_GT(finer, static_cast<std::size_t>(count_parameters(c.model).total) / 2);
  }
}

}  // namespace
}  // namespace upcycle
