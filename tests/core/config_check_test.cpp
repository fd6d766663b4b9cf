#include <fmt/core.h>

#include <cmath>
#include <functional>

#include "core/config/check.h"
#include "core/config/config.h"
#include "core/config/parse.h"
#include "tests/core/input_error.h"

namespace upcycle {
namespace {

ModelConfig good_model() {
  ModelConfig m;
  m.hidden_size = 64;
  m.intermediate_size = 172;
  m.num_hidden_layers = 4;
  m.num_attention_heads = 8;
  m.num_key_value_heads = 4;
  m.vocab_size = 512;
  return m;
}

ModelConfig good_moe() {
  ModelConfig m = good_model();
  m.num_local_experts = 8;
  m.num_experts_per_tok = 2;
  return m;
}

Config good_run() {
  Config c;
  c.model = good_model();
  c.train.steps = 100;
  c.train.warmup_steps = 10;
  c.data.train = {{"docs", 1}};
  return c;
}

void expect_bad_model(const std::function<void(ModelConfig&)>& spoil, const std::string& start) {
  ModelConfig m = good_moe();
  spoil(m);
  const std::string message = input_error_of([&] { check_model(m, "dense/config.json"); });
  EXPECT_TRUE(message.starts_with(fmt::format("dense/config.json: model.{}", start))) << message;
  EXPECT_NE(message.find("; "), std::string::npos) << "no advice: " << message;
}

void expect_bad_run(const std::function<void(Config&)>& spoil, const std::string& part) {
  Config c = good_run();
  spoil(c);
  const std::string message = input_error_of([&] { check_train(c); });
  EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_NE(message.find(", expected "), std::string::npos) << message;
  EXPECT_NE(message.find("; "), std::string::npos) << "no advice: " << message;
}

TEST(CheckModel, GoodOnesPass) {
  EXPECT_NO_THROW(check_model(good_model(), "m"));
  EXPECT_NO_THROW(check_model(good_moe(), "m"));
  ModelConfig m = good_moe();
  m.num_experts_per_tok = 8;
  m.moe_every_n_layers = 4;
  EXPECT_NO_THROW(check_model(m, "m"));
  m.mlp_only_layers = {0, 2};
  m.shared_expert = m.shared_expert_gate = true;
  m.shared_expert_size = 7;
  EXPECT_NO_THROW(check_model(m, "m"));
  m.num_experts_per_tok = 1;  // the LM gives this router no gradient, but the auxiliary loss may
  EXPECT_NO_THROW(check_model(m, "m"));
  m = good_model();
  m.hidden_size = 65;
  m.head_dim = 6;  // need not divide H
  EXPECT_NO_THROW(check_model(m, "m"));
  m = good_model();
  m.num_experts_per_tok = 99;  // means nothing without experts
  EXPECT_NO_THROW(check_model(m, "m"));
  m = good_model();
  m.rope_scaling = {"llama3", 32, 1, 4, 8192};
  EXPECT_NO_THROW(check_model(m, "m"));
  m = good_model();  // Llama 3.1 405B
  m.hidden_size = 16384;
  m.intermediate_size = 53248;
  m.num_hidden_layers = 126;
  m.num_attention_heads = 128;
  m.num_key_value_heads = 8;
  m.vocab_size = 128256;
  EXPECT_NO_THROW(check_model(m, "m"));
}

TEST(CheckModel, SizesThatDoNotFit) {
  using M = ModelConfig;
  expect_bad_model([](M& m) { m.hidden_size = 0; }, "hidden_size: found 0, expected a positive integer");
  expect_bad_model([](M& m) { m.intermediate_size = 0; }, "intermediate_size: found 0");
  expect_bad_model([](M& m) { m.num_hidden_layers = 0; }, "num_hidden_layers: found 0");
  expect_bad_model([](M& m) { m.num_attention_heads = 0; }, "num_attention_heads: found 0");
  expect_bad_model([](M& m) { m.vocab_size = 0; }, "vocab_size: found 0");
  expect_bad_model([](M& m) { m.vocab_size = -5; }, "vocab_size: found -5");
  expect_bad_model([](M& m) { m.max_position_embeddings = 0; }, "max_position_embeddings: found 0");
  expect_bad_model([](M& m) { m.hidden_size = 65; },
                   "hidden_size: found 65, expected a multiple of num_attention_heads = 8");
  expect_bad_model([](M& m) { m.num_key_value_heads = 3; },
                   "num_key_value_heads: found 3, expected a divisor of num_attention_heads = 8");
  expect_bad_model([](M& m) { m.num_key_value_heads = 16; }, "num_key_value_heads: found 16");
  expect_bad_model([](M& m) { m.head_dim = 7; }, "head_dim: found 7, expected an even number");
  expect_bad_model([](M& m) { m.hidden_size = 72; }, "head_dim: found 9, expected an even number");
  expect_bad_model([](M& m) { m.eos_token_id = 512; }, "eos_token_id: found 512, expected less than vocab_size = 512");
  expect_bad_model([](M& m) { m.bos_token_id = -2; }, "bos_token_id: found -2");
  expect_bad_model([](M& m) { m.rope_theta = 0; }, "rope_theta: found 0");
  expect_bad_model([](M& m) { m.rms_norm_eps = -1; }, "rms_norm_eps: found -1");
  expect_bad_model([](M& m) { m.rms_norm_eps = std::nan(""); }, "rms_norm_eps");
}

TEST(CheckModel, NormsOfQueriesHaveNoOffset) {
  ModelConfig m = good_model();
  m.norm_unit_offset = true;
  EXPECT_NO_THROW(check_model(m, "m"));
  expect_bad_model(
      [](ModelConfig& bad) {
        bad.norm_unit_offset = true;
        bad.qk_norm = "head";
      },
      "qk_norm: found 'head', expected none where model.norm_unit_offset is true");
}

TEST(CheckModel, SizesWhoseProductsWouldOverflow) {
  ModelConfig m = good_model();
  m.hidden_size = m.vocab_size = m.intermediate_size = 1 << 30;
  EXPECT_TRUE(input_error_of([&] { check_model(m, "m.json"); }).starts_with("m.json: model: found sizes that make"));
}

TEST(CheckModel, Experts) {
  using M = ModelConfig;
  expect_bad_model([](M& m) { m.num_experts_per_tok = 9; },
                   "num_experts_per_tok: found 9, expected 1 to num_local_experts = 8");
  expect_bad_model([](M& m) { m.num_experts_per_tok = 0; }, "num_experts_per_tok: found 0");
  expect_bad_model([](M& m) { m.num_local_experts = -1; }, "num_local_experts: found -1");
  expect_bad_model([](M& m) { m.moe_intermediate_size = -1; }, "moe_intermediate_size: found -1");
  expect_bad_model([](M& m) { m.moe_every_n_layers = 0; }, "moe_every_n_layers: found 0");
  expect_bad_model([](M& m) { m.mlp_bias = true; }, "mlp_bias: found true, expected false beside num_local_experts");
  expect_bad_model([](M& m) { m.moe_every_n_layers = 5; },
                   "moe_every_n_layers: found 5, expected at most num_hidden_layers = 4");
  expect_bad_model([](M& m) { m.mlp_only_layers = {1, -1}; }, "mlp_only_layers: found [1,-1]");
  expect_bad_model([](M& m) { m.mlp_only_layers = {4}; },
                   "mlp_only_layers: found 4, expected less than num_hidden_layers = 4");
  expect_bad_model(
      [](M& m) {
        m.moe_every_n_layers = 2, m.mlp_only_layers = {3, 1};
      },
      "mlp_only_layers: found every layer that would have experts");
  expect_bad_model([](M& m) { m.shared_expert_size = 8; },
                   "shared_expert_size: found 8, expected 0 where model.shared_expert is false");
  expect_bad_model([](M& m) { m.shared_expert_gate = true; },
                   "shared_expert_gate: found true, expected false where model.shared_expert is false");
  expect_bad_model([](M& m) { m.router_softmax = "softmax"; }, "router_softmax: found 'softmax'");
  expect_bad_model([](M& m) { m.router_score = "tanh"; }, "router_score: found 'tanh', expected softmax | sigmoid");
  expect_bad_model([](M& m) { m.router_bias = true; },
                   "router_bias: found true, expected false where model.router_score is softmax");
  expect_bad_model([](M& m) { m.router_bias_update_rate = -1; }, "router_bias_update_rate: found -1");
  expect_bad_model([](M& m) { m.router_aux_loss_scope = "global"; }, "router_aux_loss_scope: found 'global'");
  expect_bad_model([](M& m) { m.router_aux_loss_coef = -0.1; }, "router_aux_loss_coef: found -0.1");
}

TEST(CheckModel, RopeScaling) {
  using M = ModelConfig;
  expect_bad_model([](M& m) { m.rope_scaling.rope_type = "su"; }, "rope_scaling.rope_type: found 'su'");
  expect_bad_model([](M& m) { m.rope_scaling.rope_type = "longrope"; },
                   "rope_scaling.short_factor: found 0 numbers, expected 4, half of the 8 elements");
  expect_bad_model(
      [](M& m) {
        m.rope_scaling.rope_type = "longrope";
        m.rope_scaling.short_factor = m.rope_scaling.long_factor = {1, 2, 3, 4};
        m.rope_scaling.long_factor[2] = 0;
      },
      "rope_scaling.long_factor: found 0, expected numbers > 0");
  expect_bad_model(
      [](M& m) {
        m.rope_scaling.rope_type = "yarn";
        m.rope_scaling.beta_slow = 40;
      },
      "rope_scaling.beta_fast: found 32, expected more than beta_slow = 40");
  expect_bad_model([](M& m) { m.partial_rotary_factor = 0.4; }, "partial_rotary_factor: found 0.4, expected an even");
  expect_bad_model([](M& m) { m.partial_rotary_factor = 1.5; }, "partial_rotary_factor: found 1.5");
  expect_bad_model([](M& m) { m.rope_scaling.factor = 8; },
                   "rope_scaling.factor: found 8, expected 1 where rope_type is empty");
  expect_bad_model([](M& m) { m.rope_scaling = {"llama3", 0.5, 1, 4, 8192}; }, "rope_scaling.factor: found 0.5");
  expect_bad_model([](M& m) { m.rope_scaling = {"llama3", 8, 4, 4, 8192}; }, "rope_scaling.high_freq_factor: found 4");
  expect_bad_model([](M& m) { m.rope_scaling = {"llama3", 8, 0, 4, 8192}; }, "rope_scaling.low_freq_factor: found 0");
  expect_bad_model(
      [](M& m) {
        m.rope_scaling = {"llama3", 8, 1, 4, 0};
      },
      "rope_scaling.original_max_position_embeddings");
}

TEST(CheckTrain, GoodOnesPass) {
  EXPECT_NO_THROW(check_train(good_run()));
  Config c = good_run();
  c.train.steps = 0;
  c.train.tokens = c.train.seq_length * c.train.global_batch_size * 10 + 1;
  EXPECT_NO_THROW(check_train(c));
  c.train.warmup_steps = 11;  // the last step may go past the tokens
  EXPECT_NO_THROW(check_train(c));
  c.train.warmup_steps = 12;
  EXPECT_NE(input_error_of([&] { check_train(c); }).find("at most the run's 11 steps"), std::string::npos);
  // A batch twice as large on resuming: the steps that were made count as well.
  c.train.warmup_steps = 0;
  c.train.global_batch_size *= 2;
  c.model = good_moe();
  c.init.load = "dense";
  c.upcycle.at_step = 7;
  EXPECT_NE(input_error_of([&] { check_train(c); }).find("less than the run's 6 steps"), std::string::npos);
  EXPECT_NO_THROW(check_train(c, {6, 6 * c.train.seq_length * c.train.global_batch_size / 2}));
  c = good_run();
  c.train.schedule = "constant";  // never reaches min_lr
  c.train.lr = 1e-6;
  EXPECT_NO_THROW(check_train(c));
  c = good_run();
  const ModelConfig inherited;  // not known yet
  c.model = inherited;
  c.train.seq_length = 100000;
  EXPECT_NO_THROW(check_train(c));
  c = good_run();
  c.model = good_moe();
  c.upcycle.at_step = 50;
  c.init.load = "dense";
  EXPECT_NO_THROW(check_train(c));
}

TEST(CheckTrain, StepsAndBatches) {
  expect_bad_run([](Config& c) { c.train.steps = 0; }, "neither train.steps nor train.tokens");
  expect_bad_run([](Config& c) { c.train.tokens = 1000000; },
                 "train.tokens: found 1000000, expected it absent beside train.steps = 100");
  expect_bad_run([](Config& c) { c.train.steps = -1; }, "train.steps: found -1");
  expect_bad_run([](Config& c) { c.train.seq_length = 4096; },
                 "train.seq_length: found 4096, expected at most model.max_position_embeddings = 2048");
  expect_bad_run(
      [](Config& c) {
        c.model.sliding_window = 64;
        c.train.seq_length = 65;
      },
      "train.seq_length: found 65, expected at most model.sliding_window = 64");
  expect_bad_run([](Config& c) { c.train.micro_batch_size = 3; },
                 "train.global_batch_size: found 8, expected a multiple of train.micro_batch_size = 3");
  expect_bad_run([](Config& c) { c.train.micro_batch_size = 0; }, "train.micro_batch_size: found 0");
  expect_bad_run([](Config& c) { c.train.warmup_steps = 101; },
                 "train.warmup_steps: found 101, expected at most the run's 100 steps");
  expect_bad_run([](Config& c) { c.train.warmup_tokens = 1; },
                 "train.warmup_tokens: found 1, expected it absent beside train.warmup_steps = 10");
  // 100 steps of 8 * 256 tokens.
  expect_bad_run([](Config& c) { c.train.warmup_steps = 0, c.train.warmup_tokens = 204801; },
                 "train.warmup_tokens: found 204801, expected at most the run's 204800 tokens");
}

TEST(CheckTrain, BatchRamp) {  // good_run: micro batches of 1, batches of 8
  const auto ramp = [](std::vector<std::int64_t> numbers, std::int64_t micro = 1) {
    return [=](Config& c) { c.train.rampup_batch_size = numbers, c.train.micro_batch_size = micro; };
  };
  Config c = good_run();
  ramp({2, 2, 100}, 2)(c);
  EXPECT_NO_THROW(check_train(c));
  expect_bad_run(ramp({2, 2}), "train.rampup_batch_size: found 2 numbers, expected three: [start, increment, samples]");
  expect_bad_run(ramp({2, 0, 100}), "train.rampup_batch_size: found [2,0,100], expected >= 1");
  expect_bad_run(ramp({2, 2, 0}), "train.rampup_batch_size: found [2,2,0]");
  expect_bad_run(ramp({8, 2, 100}), "found a start of 8, expected less than train.global_batch_size = 8");
  expect_bad_run(ramp({2, 4, 100}),
                 "found an increment of 4, expected a divisor of train.global_batch_size - start = 6");
  expect_bad_run(ramp({2, 2, 100}, 4), "found a start of 2, expected a multiple of train.micro_batch_size = 4");
  expect_bad_run(ramp({4, 1, 100}, 2), "found an increment of 1, expected a multiple of train.micro_batch_size = 2");
  // Two steps of 4, then of 8: 100 steps of 256 tokens a sequence.
  c = good_run();
  ramp({4, 4, 5})(c);
  c.train.warmup_steps = 0;
  c.train.warmup_tokens = (2 * 4 + 98 * 8) * 256;
  EXPECT_NO_THROW(check_train(c));
  ++c.train.warmup_tokens;
  EXPECT_NE(input_error_of([&] { check_train(c); }).find("at most the run's 202752 tokens"), std::string::npos);
}

TEST(CheckTrain, DecoupledRates) {  // good_run: lr 3e-4, min_lr 3e-5
  const auto rates = [](double lr, double min_lr = -1) {
    return [=](Config& c) { c.train.decoupled_lr = lr, c.train.decoupled_min_lr = min_lr; };
  };
  Config c = good_run();
  rates(1e-5, 0)(c);
  EXPECT_NO_THROW(check_train(c));
  rates(1e-5)(c);
  c.train.schedule = "constant";
  EXPECT_NO_THROW(check_train(c));
  expect_bad_run(rates(1e-5), "train.decoupled_lr: found 1e-05, expected at least train.min_lr = 3e-05");
  expect_bad_run(rates(1e-5, 2e-5), "train.decoupled_min_lr: found 2e-05, expected at most train.decoupled_lr = 1e-05");
  expect_bad_run(rates(-1, 2e-5), "train.decoupled_min_lr: found 2e-05, expected train.decoupled_lr beside it");
  expect_bad_run(rates(-0.5), "train.decoupled_lr: found -0.5, expected >= 0, or -1");
}

TEST(CheckTrain, WarmUpInTokens) {
  Config c = good_run();
  c.train.warmup_steps = 0;
  c.train.warmup_tokens = 204800;
  EXPECT_NO_THROW(check_train(c));
  c.train.steps = 0;
  c.train.tokens = 204800;
  EXPECT_NO_THROW(check_train(c));
  c.train.tokens = 204799;
  EXPECT_NE(input_error_of([&] { check_train(c); }).find("at most the run's 204799 tokens"), std::string::npos);
}

TEST(CheckTrain, MinLrOrItsRatio) {
  expect_bad_run([](Config& c) { c.train.min_lr_ratio = 0.2; },
                 "default: train.min_lr_ratio: found 0.2, expected it absent beside train.min_lr = 3e-05");
  expect_bad_run([](Config& c) { c.train.min_lr_ratio = -0.5; }, "train.min_lr_ratio: found -0.5, expected in [0, 1]");
  expect_bad_run([](Config& c) { c.train.min_lr_ratio = 1.5; }, "train.min_lr_ratio: found 1.5");
  const auto message = [](const std::vector<std::string>& overrides) {
    const Config c = parse_config_text(R"({"train": {"steps": 5, "min_lr": 1e-5}})", "run.json", overrides);
    return input_error_of([&] { check_train(c); });
  };
  EXPECT_TRUE(
      message({"--train.min_lr_ratio=0.5"}).starts_with("command line: train.min_lr_ratio: found 0.5, expected"));
  const Config c = parse_config_text(R"({"train": {"steps": 5, "min_lr_ratio": 0.5}})", "run.json", {});
  EXPECT_NO_THROW(check_train(c));
}

TEST(CheckTrain, Numbers) {
  expect_bad_run([](Config& c) { c.train.master_dtype = "bf16"; },
                 "train.master_dtype: found 'bf16', expected fp32 | bf16_remainder");
  expect_bad_run([](Config& c) { c.dtype = "fp32", c.train.master_dtype = "bf16_remainder"; },
                 "train.master_dtype: found bf16_remainder, expected fp32 where dtype is fp32");
  expect_bad_run(
      [](Config& c) { c.dtype = "bf16", c.train.master_dtype = "bf16_remainder", c.train.optimizer_offload = true; },
      "train.master_dtype: found bf16_remainder, expected fp32 beside train.optimizer_offload");
  expect_bad_run([](Config& c) { c.train.moment_dtype = "fp16"; },
                 "train.moment_dtype: found 'fp16', expected fp32 | bf16");
  expect_bad_run([](Config& c) { c.train.optimizer = "sgd", c.train.moment_dtype = "bf16"; },
                 "train.moment_dtype: found bf16, expected fp32 where train.optimizer is sgd");
  expect_bad_run([](Config& c) { c.train.beta1 = 1; }, "train.beta1: found 1.0, expected in [0, 1)");
  expect_bad_run([](Config& c) { c.train.beta2 = -0.1; }, "train.beta2: found -0.1");
  expect_bad_run([](Config& c) { c.train.beta2 = std::nan(""); }, "train.beta2");
  expect_bad_run([](Config& c) { c.train.lr = 1e-5; },
                 "default: train.min_lr: found 3e-05, expected at most train.lr = 1e-05");
  expect_bad_run([](Config& c) { c.train.min_lr = -1; }, "train.min_lr: found -1");
  expect_bad_run([](Config& c) { c.train.clip_grad = -1; }, "train.clip_grad: found -1");
  expect_bad_run([](Config& c) { c.train.decay_fraction = 2; }, "train.decay_fraction: found 2");
  expect_bad_run([](Config& c) { c.upcycle.drop_ratio = -0.5; }, "upcycle.drop_ratio: found -0.5, expected in [0, 1]");
  expect_bad_run([](Config& c) { c.parallel.tp = 0; }, "parallel.tp: found 0");
  expect_bad_run([](Config& c) { c.parallel.imbalance_factor = 0.9; }, "parallel.imbalance_factor: found 0.9");
  expect_bad_run([](Config& c) { c.parallel.timeout_s = 0.5; }, "parallel.timeout_s: found 0.5");
  expect_bad_run([](Config& c) { c.parallel.tp = 4, c.parallel.etp = 2; },
                 "parallel.etp: found 2, expected 1 or parallel.tp = 4");
}

TEST(CheckTrain, Names) {
  expect_bad_run([](Config& c) { c.train.optimizer = "adam"; },
                 "train.optimizer: found 'adam', expected adamw | lion | sgd");
  expect_bad_run([](Config& c) { c.train.schedule = "wsb"; }, "did you mean 'wsd'?");
  expect_bad_run([](Config& c) { c.train.recompute = "some"; }, "train.recompute: found 'some'");
  expect_bad_run([](Config& c) { c.train.recompute = "full,norms"; },
                 "train.recompute: found 'full' in a list, expected none | selective | full | a list of attention, "
                 "swiglu, mlp, norms");
  expect_bad_run([](Config& c) { c.train.recompute = "norms,"; }, "train.recompute: found '' in a list");
  expect_bad_run([](Config& c) { c.train.recompute = "norms,norms"; }, "found 'norms,norms', expected each name once");
  expect_bad_run([](Config& c) { c.train.recompute = "swiglu,mlp"; }, "found 'swiglu,mlp', expected swiglu or mlp");
  expect_bad_run([](Config& c) { c.upcycle.mode = "clone"; }, "upcycle.mode: found 'clone'");
  expect_bad_run([](Config& c) { c.upcycle.scale = "up"; }, "upcycle.scale: found 'up'");
  expect_bad_run([](Config& c) { c.dtype = "fp8"; }, "dtype: found 'fp8'");
  expect_bad_run([](Config& c) { c.device = "tpu"; }, "device: found 'tpu', expected cpu | cuda");
}

TEST(CheckTrain, StepsThatStay) {
  expect_bad_run(
      [](Config& c) {
        c.checkpoint.dir = "run";
        c.checkpoint.keep_every = 10;
      },
      "checkpoint.keep_every: found 10, expected checkpoint.keep beside it");
}

TEST(CheckTrain, WeightsAlone) {
  expect_bad_run([](Config& c) { c.checkpoint.model_every = 2; },
                 "checkpoint.model_every: found 2, expected checkpoint.dir beside it");
  expect_bad_run([](Config& c) { c.checkpoint.model_dtype = "bf16"; },
                 "checkpoint.model_dtype: found bf16, expected checkpoint.model_every beside it");
  expect_bad_run([](Config& c) { c.checkpoint.snapshot = "bucket"; },
                 "checkpoint.snapshot: found bucket, expected checkpoint.dir beside it");
  expect_bad_run([](Config& c) { c.checkpoint.snapshot = "none"; }, "checkpoint.snapshot: found 'none'");
}

TEST(CheckTrain, OffloadOfNothing) {
  expect_bad_run(
      [](Config& c) { c.train.optimizer_offload = true, c.train.optimizer = "sgd", c.dtype = "fp32"; },
      "train.optimizer_offload: found true under train.optimizer = sgd and dtype = fp32, expected false; there the "
      "parameters are all of the state");
  Config c = good_run();
  c.train.optimizer_offload = true;
  for (const char* device : {"cpu", "cuda"})
    for (const char* optimizer : {"adamw", "sgd"}) {
      c.device = device, c.train.optimizer = optimizer, c.dtype = "bf16";
      EXPECT_NO_THROW(check_train(c)) << device << optimizer;
    }
}

TEST(CheckTrain, ProfilersWindow) {
  expect_bad_run([](Config& c) { c.train.profile_step_start = 3, c.train.profile_step_end = 2; },
                 "train.profile_step_end: found 2, expected at least train.profile_step_start = 3");
  expect_bad_run([](Config& c) { c.train.profile_step_end = 2; },
                 "train.profile_step_end: found 2, expected train.profile_step_start beside it");
  expect_bad_run([](Config& c) { c.train.profile_trace = "trace.json"; },
                 "train.profile_trace: found trace.json, expected train.profile_step_start and _end beside it");
}

TEST(CheckTrain, InitAndUpcycling) {
  expect_bad_run([](Config& c) { c.init = {"a", "b"}; }, "init.upcycle: found it beside init.load");
  expect_bad_run([](Config& c) { c.model = good_moe(), c.upcycle.at_step = 100; },
                 "upcycle.at_step: found 100, expected less than");
  expect_bad_run([](Config& c) { c.model = good_moe(), c.upcycle.at_step = 1, c.init.upcycle.assign("dense"); },
                 "upcycle.at_step: found 1, expected it absent");
  expect_bad_run([](Config& c) { c.checkpoint.every = 5; }, "checkpoint.every: found 5, expected checkpoint.dir");
}

TEST(CheckTrain, SaysWhereAValueComesFrom) {
  Config c = parse_config_text(R"({"train": {"steps": 5, "warmup_steps": 6}})", "run.json", {});
  EXPECT_TRUE(input_error_of([&] { check_train(c); }).starts_with("run.json: train.warmup_steps: found 6"));
  c = parse_config_text(R"({"train": {"steps": 5}})", "run.json", {"--train.warmup_steps=6"});
  EXPECT_TRUE(input_error_of([&] { check_train(c); }).starts_with("command line: train.warmup_steps: found 6"));
}

TEST(CheckData, TokenSets) {
  Config c = good_run();
  EXPECT_NO_THROW(check_data(c));
  c.train.eval_every = 10;
  EXPECT_NE(input_error_of([&] { check_data(c); }).find("train.eval_every: found 10, expected data.valid"),
            std::string::npos);
  c.data.valid["v"] = "";
  EXPECT_NE(input_error_of([&] { check_data(c); }).find("data.valid: found an empty path for v"), std::string::npos);
  c.data.valid["v"] = "p";
  EXPECT_NO_THROW(check_data(c));
  c.data.train[0].weight = 0;
  EXPECT_NE(input_error_of([&] { check_data(c); }).find("weight 0 of docs"), std::string::npos);
  c.data.train = {{"", 1}};
  EXPECT_NE(input_error_of([&] { check_data(c); }).find("an empty path"), std::string::npos);
  c.data.train.clear();
  EXPECT_NE(input_error_of([&] { check_data(c); }).find("data.train: found nothing"), std::string::npos);
}

}  // namespace
}  // namespace upcycle
