#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/config/check.h"
#include "core/config/parse.h"
#include "parallel/model/params.h"

// The training configs paper_*.json hold what arXiv 2411.08968 says.
namespace upcycle {
namespace {

struct Size {
  const char* name;
  double largest_budget;            // of the pretraining FLOPs
  double dense_lr, cpt_lr, moe_lr;  // its table
  double cpt_tokens, moe_tokens;    // as it rounds them
  double rounding;                  // of the upcycled model's tokens, against equal FLOPs
};
const Size kSizes[] = {{"436m", 1.0, 8e-4, 5e-5, 1e-4, 43.6e9, 32e9, 0.025},
                       {"1.4b", 0.8, 4e-4, 5e-5, 5e-5, 113e9, 77.2e9, 0.006}};

Config config_of(const char* size, const char* arm) {
  return parse_config(fmt::format("{}/launch/configs/paper_{}_{}.json", UPCYCLE_ROOT, size, arm), {});
}

double flops_of(const Config& c) {
  return static_cast<double>(c.train.tokens) * training_flops_per_token(c.model, c.train.seq_length, FlopsCount::Paper);
}

// With as many significant digits as the paper has.
double rounded(double x) {
  const double unit = std::pow(10, std::floor(std::log10(x)) - 2);
  return std::round(x / unit) * unit;
}

TEST(PaperConfigs, TrainAsThePaperDoes) {
  for (const Size& s : kSizes)
    for (const auto& [arm, lr, decay] :
         {std::tuple{"dense", s.dense_lr, 0.5}, {"cpt", s.cpt_lr, 0.05}, {"moe", s.moe_lr, 0.05}}) {
      SCOPED_TRACE(fmt::format("{} {}", s.name, arm));
      const Config c = config_of(s.name, arm);
      EXPECT_NO_THROW(check_train(c));
      EXPECT_NO_THROW(check_model(c.model, arm));
      EXPECT_EQ(c.train.optimizer, "lion");
      EXPECT_EQ(c.train.beta1, 0.9);
      EXPECT_EQ(c.train.beta2, 0.99);
      EXPECT_EQ(c.train.lr, lr);
      EXPECT_EQ(c.train.weight_decay, decay);
      EXPECT_EQ(c.train.seq_length, 4096);
      EXPECT_EQ(c.train.global_batch_size, 1024);
      EXPECT_EQ(c.train.schedule, "cosine");
      EXPECT_EQ(c.train.warmup_tokens, 500'000'000);
      EXPECT_EQ(c.train.warmup_steps, 0);
      EXPECT_EQ(c.model.num_attention_heads, 16);
      EXPECT_EQ(c.model.num_key_value_heads, 4);
      EXPECT_FALSE(c.model.tie_word_embeddings);
      // One model: the upcycled one has experts besides.
      Config dense = config_of(s.name, "dense");
      if (std::string(arm) == "moe") {
        EXPECT_EQ(c.upcycle.mode, "copy");
        EXPECT_EQ(c.model.router_aux_loss_coef, 0.01);
        dense.model.num_local_experts = 8;
        dense.model.num_experts_per_tok = 2;
      }
      EXPECT_EQ(c.model, dense.model);
    }
}

TEST(PaperConfigs, HaveItsTokens) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.name);
    const Config dense = config_of(s.name, "dense"), cpt = config_of(s.name, "cpt"), moe = config_of(s.name, "moe");
    const auto tokens = [](const Config& c) { return static_cast<double>(c.train.tokens); };
    EXPECT_EQ(tokens(dense), rounded(100 * static_cast<double>(count_parameters(dense.model).total)));
    EXPECT_EQ(tokens(cpt), s.cpt_tokens);
    EXPECT_EQ(tokens(moe), s.moe_tokens);
    // They are the budget's, as far as the paper's numbers are round.
    const double budget = s.largest_budget * flops_of(dense);
    EXPECT_NEAR(flops_of(cpt), budget, 0.006 * budget);
    EXPECT_NEAR(flops_of(moe), budget, s.rounding * budget);
  }
}

}  // namespace
}  // namespace upcycle
