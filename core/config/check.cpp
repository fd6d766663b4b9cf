#include "core/config/check.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/config/batch_ramp.h"
#include "core/config/fields.h"

namespace upcycle {
namespace {

// Checks each field by itself; `where_of` says where a key comes from.
template <class WhereOf>
void check_fields(const Config& config, std::string_view prefix, const WhereOf& where_of) {
  for (const Field& f : fields())
    if (f.key.starts_with(prefix)) check_allowed(config, f, where_of(f.key));
}

// More than any machine holds; below this, sums of parameter counts and bytes can not overflow 64 bits.
constexpr double parameters_max = 0x1p50;

// The parameter table has a few rows per layer and expert; numbers above these are typing errors.
constexpr std::int64_t layers_max = 1 << 16, experts_max = 1 << 18;

double parameters_about(const ModelConfig& m) {
  const double h = static_cast<double>(m.hidden_size), d = static_cast<double>(m.head_size());
  const double attention = h * d * static_cast<double>(2 * m.num_attention_heads + 2 * m.kv_heads());
  double mlp = 3 * h * static_cast<double>(std::max(m.intermediate_size, m.shared_size()));
  if (m.is_moe()) mlp += 3 * h * static_cast<double>(m.num_local_experts) * static_cast<double>(m.expert_size());
  return 2 * h * static_cast<double>(m.vocab_size) + static_cast<double>(m.num_hidden_layers) * (attention + mlp);
}

void check_rope_scaling(const ModelConfig& model, const std::string& where) {
  const std::string section = "model.rope_scaling.";
  const RopeScaling& r = model.rope_scaling;
  if (r.rope_type.empty()) {
    if (r.factor != 1)
      field_error(where, section + "factor", fmt::format("{}", r.factor), "1 where rope_type is empty",
                  "set model.rope_scaling.rope_type, or leave the factor out");
    return;
  }
  if (r.rope_type == "longrope") {
    const auto half = static_cast<std::size_t>(model.rotary_size() / 2);
    for (const auto& [key, factors] : {std::pair{"short_factor", &r.short_factor}, {"long_factor", &r.long_factor}}) {
      if (factors->size() != half)
        field_error(where, section + key, fmt::format("{} numbers", factors->size()),
                    fmt::format("{}, half of the {} elements of a head that RoPE turns", half, model.rotary_size()),
                    "take the list that came with the model");
      for (const double factor : *factors)
        if (!(factor > 0))
          field_error(where, section + key, fmt::format("{}", factor), "numbers > 0",
                      "take the list that came with the model");
    }
  }
  if (r.rope_type == "yarn" && !(r.beta_slow < r.beta_fast))
    field_error(where, section + "beta_fast", fmt::format("{}", r.beta_fast),
                fmt::format("more than beta_slow = {}", r.beta_slow), "YaRN has 32 and 1");
  if (r.rope_type == "llama3" && !(r.low_freq_factor < r.high_freq_factor))
    field_error(where, section + "high_freq_factor", fmt::format("{}", r.high_freq_factor),
                fmt::format("more than low_freq_factor = {}", r.low_freq_factor), "Llama 3 has 1 and 4");
}

}  // namespace

void check_model(const ModelConfig& model, const std::string& where) {
  Config config;
  config.model = model;
  check_fields(config, "model.", [&](const std::string&) { return where; });

  const auto require_positive = [&](const char* key, std::int64_t value) {
    if (value <= 0)
      field_error(where, key, fmt::format("{}", value), "a positive integer",
                  "set it, or name a model to inherit it from with init.load or init.upcycle");
  };
  require_positive("model.hidden_size", model.hidden_size);
  require_positive("model.intermediate_size", model.intermediate_size);
  require_positive("model.num_hidden_layers", model.num_hidden_layers);
  require_positive("model.num_attention_heads", model.num_attention_heads);
  require_positive("model.vocab_size", model.vocab_size);

  if (model.num_hidden_layers > layers_max)
    field_error(where, "model.num_hidden_layers", fmt::format("{}", model.num_hidden_layers),
                fmt::format("at most {}", layers_max), "lower it");
  if (model.num_local_experts > experts_max / model.num_hidden_layers)
    field_error(where, "model.num_local_experts",
                fmt::format("{} in {} layers", model.num_local_experts, model.num_hidden_layers),
                fmt::format("at most {} experts in all", experts_max), "lower it");

  const std::int64_t H = model.hidden_size, N = model.num_attention_heads, K = model.kv_heads();
  if (model.head_dim == 0 && H % N != 0)
    field_error(where, "model.hidden_size", fmt::format("{}", H),
                fmt::format("a multiple of num_attention_heads = {}", N), "change one of them, or give model.head_dim");
  if (N % K != 0)
    field_error(where, "model.num_key_value_heads", fmt::format("{}", K),
                fmt::format("a divisor of num_attention_heads = {}", N), "change one of them");
  if (model.rotary_size() % 2 != 0 || model.rotary_size() == 0) {
    const char* advice = "RoPE turns pairs: change model.head_dim, or hidden_size / num_attention_heads";
    if (model.partial_rotary_factor == 1)
      field_error(where, "model.head_dim", fmt::format("{}", model.head_size()), "an even number", advice);
    field_error(where, "model.partial_rotary_factor", fmt::format("{}", model.partial_rotary_factor),
                fmt::format("an even number of the {} elements of a head, at least 2", model.head_size()), advice);
  }
  for (const auto& [key, id] :
       {std::pair{"model.bos_token_id", model.bos_token_id}, std::pair{"model.eos_token_id", model.eos_token_id}})
    if (id >= model.vocab_size)
      field_error(where, key, fmt::format("{}", id), fmt::format("less than vocab_size = {}", model.vocab_size),
                  "-1 means none");
  check_rope_scaling(model, where);
  if (model.norm_unit_offset && model.qk_norm != "none")
    field_error(where, "model.qk_norm", "'" + model.qk_norm + "'", "none where model.norm_unit_offset is true",
                "norms of queries and keys are computed without the offset only: set one of the two back");

  if (model.is_moe()) {
    const std::int64_t E = model.num_local_experts, k = model.num_experts_per_tok;
    if (k < 1 || k > E)
      field_error(where, "model.num_experts_per_tok", fmt::format("{}", k),
                  fmt::format("1 to num_local_experts = {}", E), "change one of them");
    if (model.moe_every_n_layers > model.num_hidden_layers)
      field_error(where, "model.moe_every_n_layers", fmt::format("{}", model.moe_every_n_layers),
                  fmt::format("at most num_hidden_layers = {}", model.num_hidden_layers),
                  "no layer would have experts: lower it, or leave out model.num_local_experts");
    if (model.mlp_bias)
      field_error(where, "model.mlp_bias", "true", fmt::format("false beside num_local_experts = {}", E),
                  "experts have no biases");
    if (static_cast<std::int64_t>(model.mlp_only_layers.size()) > model.num_hidden_layers)
      field_error(where, "model.mlp_only_layers", fmt::format("{} layers", model.mlp_only_layers.size()),
                  fmt::format("at most num_hidden_layers = {}", model.num_hidden_layers), "name each layer once");
    for (const std::int64_t layer : model.mlp_only_layers)
      if (layer >= model.num_hidden_layers)
        field_error(where, "model.mlp_only_layers", fmt::format("{}", layer),
                    fmt::format("less than num_hidden_layers = {}", model.num_hidden_layers), "layers count from 0");
    bool any = false;
    for (std::int64_t l = 0; l < model.num_hidden_layers; ++l) any = any || model.is_moe_layer(l);
    if (!any)
      field_error(where, "model.mlp_only_layers", "every layer that would have experts", "one less at least",
                  "leave out model.num_local_experts for a dense model");
    if (model.router_bias && model.router_score != "sigmoid")
      field_error(where, "model.router_bias", "true", "false where model.router_score is " + model.router_score,
                  "set model.router_score to sigmoid, or leave the bias out");
    if (!model.shared_expert && model.shared_expert_size > 0)
      field_error(where, "model.shared_expert_size", fmt::format("{}", model.shared_expert_size),
                  "0 where model.shared_expert is false", "set model.shared_expert, or leave it out");
    if (!model.shared_expert && model.shared_expert_gate)
      field_error(where, "model.shared_expert_gate", "true", "false where model.shared_expert is false",
                  "set model.shared_expert, or leave it out");
  }
  if (parameters_about(model) > parameters_max)
    field_error(where, "model", fmt::format("sizes that make {:.1e} parameters", parameters_about(model)),
                fmt::format("at most {:.1e}", parameters_max), "check hidden_size, intermediate_size and the like");
}

std::int64_t total_steps(const TrainConfig& t, const Trained& done) {
  if (t.steps > 0) return t.steps;
  const std::int64_t left = std::max<std::int64_t>(0, t.tokens - done.tokens);
  return done.step + steps_for(t, done.tokens / t.seq_length, (left + t.seq_length - 1) / t.seq_length);
}

std::int64_t total_tokens(const TrainConfig& t, const Trained& done) {
  const std::int64_t steps = total_steps(t, done) - done.step;
  return done.tokens + samples_in(t, done.tokens / t.seq_length, std::max<std::int64_t>(0, steps)) * t.seq_length;
}

namespace {

// As Megatron refuses them; that micro batches of all ranks divide each batch is make_trainer's to see.
void check_ramp(const Config& config) {
  const TrainConfig& t = config.train;
  if (t.rampup_batch_size.empty()) return;
  const auto fail = [&](const std::string& found, const std::string& expected, const std::string& advice) {
    field_error(config.where("train.rampup_batch_size"), "train.rampup_batch_size", found, expected, advice);
  };
  if (t.rampup_batch_size.size() != 3)
    fail(fmt::format("{} numbers", t.rampup_batch_size.size()), "three: [start, increment, samples]",
         "e.g. [16, 16, 100000]");
  const std::int64_t start = t.rampup_batch_size[0], increment = t.rampup_batch_size[1];
  if (start >= t.global_batch_size)
    fail(fmt::format("a start of {}", start),
         fmt::format("less than train.global_batch_size = {}", t.global_batch_size),
         "leave it out for batches of one size");
  if ((t.global_batch_size - start) % increment != 0)
    fail(fmt::format("an increment of {}", increment),
         fmt::format("a divisor of train.global_batch_size - start = {}", t.global_batch_size - start),
         "the last increment must lead to the whole batch");
  for (const auto& [name, size] : {std::pair{"a start", start}, std::pair{"an increment", increment}})
    if (size % t.micro_batch_size != 0)
      fail(fmt::format("{} of {}", name, size),
           fmt::format("a multiple of train.micro_batch_size = {}", t.micro_batch_size), "change one of them");
}

// Rates of embedding and output layer.
void check_decoupled(const Config& config) {
  const TrainConfig& t = config.train;
  for (const auto& [key, value] :
       {std::pair{"train.decoupled_lr", t.decoupled_lr}, std::pair{"train.decoupled_min_lr", t.decoupled_min_lr}})
    if (value < 0 && value != -1)
      field_error(config.where(key), key, fmt::format("{}", value), ">= 0, or -1 for none", "e.g. 1e-4");
  if (t.decoupled_lr < 0 && t.decoupled_min_lr >= 0)
    field_error(config.where("train.decoupled_min_lr"), "train.decoupled_min_lr", fmt::format("{}", t.decoupled_min_lr),
                "train.decoupled_lr beside it", "alone it has no meaning");
  if (t.decoupled_lr < 0 || t.schedule == "constant") return;
  if (t.decoupled_min_lr < 0 && t.min_lr > t.decoupled_lr)
    field_error(config.where("train.decoupled_lr"), "train.decoupled_lr", fmt::format("{}", t.decoupled_lr),
                fmt::format("at least train.min_lr = {}, to which it falls", t.min_lr), "give train.decoupled_min_lr");
  if (t.decoupled_min_lr > t.decoupled_lr)
    field_error(config.where("train.decoupled_min_lr"), "train.decoupled_min_lr", fmt::format("{}", t.decoupled_min_lr),
                fmt::format("at most train.decoupled_lr = {}", t.decoupled_lr), "lower it");
}

}  // namespace

void check_train(const Config& config, const Trained& done) {
  check_fields(config, "", [&](const std::string& key) { return config.where(key); });
  const TrainConfig& t = config.train;
  const auto fail = [&](const char* key, const auto& found, const std::string& expected, const std::string& advice) {
    field_error(config.where(key), key, fmt::format("{}", found), expected, advice);
  };

  if (t.steps > 0 && t.tokens > 0)
    fail("train.tokens", t.tokens, fmt::format("it absent beside train.steps = {}", t.steps), "give one of the two");
  if (t.steps == 0 && t.tokens == 0)
    fail("train.steps", "neither train.steps nor train.tokens", "one of them", "e.g. --train.steps=1000");
  check_ramp(config);
  const std::int64_t steps = total_steps(t, done);
  if (config.model.hidden_size > 0 && t.seq_length > config.model.max_position_embeddings)
    fail("train.seq_length", t.seq_length,
         fmt::format("at most model.max_position_embeddings = {}", config.model.max_position_embeddings),
         "shorten the sequences");
  if (config.model.sliding_window > 0 && t.seq_length > config.model.sliding_window)
    fail("train.seq_length", t.seq_length,
         fmt::format("at most model.sliding_window = {}", config.model.sliding_window),
         "attention within a window is computed only where the window holds the whole sequence: shorten the sequences");
  if (t.global_batch_size % t.micro_batch_size != 0)
    fail("train.global_batch_size", t.global_batch_size,
         fmt::format("a multiple of train.micro_batch_size = {}", t.micro_batch_size), "change one of them");
  if (t.profile_step_start > 0 && t.profile_step_end < t.profile_step_start)
    fail("train.profile_step_end", t.profile_step_end,
         fmt::format("at least train.profile_step_start = {}", t.profile_step_start), "both steps are in the window");
  if (t.profile_step_start == 0 && t.profile_step_end > 0)
    fail("train.profile_step_end", t.profile_step_end, "train.profile_step_start beside it", "steps count from 1");
  if (t.profile_step_start == 0 && !t.profile_trace.empty())
    fail("train.profile_trace", t.profile_trace, "train.profile_step_start and _end beside it",
         "say which steps to record");
  if (const std::string listed = "," + t.recompute + ",";
      listed.find(",swiglu,") != listed.npos && listed.find(",mlp,") != listed.npos)
    fail("train.recompute", "'" + t.recompute + "'", "swiglu or mlp", "mlp makes what is swiglu's again too");
  if (const std::int64_t dumped = config.debug.dump_step; dumped > 0) {
    if (config.debug.dump.empty()) fail("debug.dump_step", dumped, "debug.dump beside it", "name the folder");
    if (dumped > steps) fail("debug.dump_step", dumped, fmt::format("at most the run's {} steps", steps), "lower it");
  }
  if (t.warmup_steps > steps)
    fail("train.warmup_steps", t.warmup_steps, fmt::format("at most the run's {} steps", steps), "lower it");
  if (t.warmup_steps > 0 && t.warmup_tokens > 0)
    fail("train.warmup_tokens", t.warmup_tokens,
         fmt::format("it absent beside train.warmup_steps = {}", t.warmup_steps), "give one of the two");
  const std::int64_t tokens = t.tokens > 0 ? t.tokens : total_tokens(t, done);
  if (t.warmup_tokens > tokens)
    fail("train.warmup_tokens", t.warmup_tokens, fmt::format("at most the run's {} tokens", tokens), "lower it");
  if (t.min_lr_ratio < 0 && t.min_lr_ratio != -1)
    fail("train.min_lr_ratio", t.min_lr_ratio, "in [0, 1], or -1 for none", "e.g. 0.1");
  if (t.min_lr_ratio >= 0 && t.min_lr != t.min_lr_ratio * t.lr)  // a resolved config has both
    fail("train.min_lr_ratio", t.min_lr_ratio, fmt::format("it absent beside train.min_lr = {}", t.min_lr),
         "give one of the two");
  // A constant learning rate never falls to min_lr.
  if (t.schedule != "constant" && t.min_lr > t.lr)
    fail("train.min_lr", t.min_lr, fmt::format("at most train.lr = {}", t.lr), "lower it, e.g. to a tenth of lr");
  check_decoupled(config);
  if (t.optimizer_offload && t.moments() == 0 && config.dtype == "fp32")
    fail("train.optimizer_offload", "true under train.optimizer = sgd and dtype = fp32", "false",
         "there the parameters are all of the state: nothing could move");

  if (!config.init.load.empty() && !config.init.upcycle.empty())
    fail("init.upcycle", "it beside init.load", "one of the two", "load continues a model, upcycle gives it experts");
  if (config.upcycle.at_step >= 0) {
    if (!config.init.upcycle.empty())
      fail("upcycle.at_step", config.upcycle.at_step, "it absent beside init.upcycle",
           "a model is upcycled once: use init.load for the dense model");
    if (config.upcycle.at_step >= steps)
      fail("upcycle.at_step", config.upcycle.at_step, fmt::format("less than the run's {} steps", steps), "lower it");
  }
  if (t.master_dtype != "fp32" && config.dtype == "fp32")
    fail("train.master_dtype", t.master_dtype, "fp32 where dtype is fp32",
         "such weights are the masters themselves: leave it out, or set dtype to bf16");
  if (t.master_dtype != "fp32" && t.optimizer_offload)
    fail("train.master_dtype", t.master_dtype, "fp32 beside train.optimizer_offload",
         "masters in host memory take none of the GPU's: leave one of the two out");
  if (t.moment_dtype != "fp32" && t.moments() == 0)
    fail("train.moment_dtype", t.moment_dtype, fmt::format("fp32 where train.optimizer is {}", t.optimizer),
         "it keeps no moments: leave it out");
  if (config.parallel.etp != 1 && config.parallel.etp != config.parallel.tp)
    fail("parallel.etp", config.parallel.etp, fmt::format("1 or parallel.tp = {}", config.parallel.tp),
         "1 keeps an expert whole on one rank");
  if (config.checkpoint.every > 0 && config.checkpoint.dir.empty())
    fail("checkpoint.every", config.checkpoint.every, "checkpoint.dir beside it", "name the run folder");
  if (config.checkpoint.model_every > 0 && config.checkpoint.dir.empty())
    fail("checkpoint.model_every", config.checkpoint.model_every, "checkpoint.dir beside it", "name the run folder");
  if (config.checkpoint.keep_every > 0 && config.checkpoint.keep == 0)
    fail("checkpoint.keep_every", config.checkpoint.keep_every, "checkpoint.keep beside it",
         "without it no step is removed: leave keep_every out");
  if (config.checkpoint.snapshot != "whole" && config.checkpoint.dir.empty())
    fail("checkpoint.snapshot", config.checkpoint.snapshot, "checkpoint.dir beside it",
         "a run that saves nothing has no snapshot");
  if (config.checkpoint.max_pending > 1 && (config.checkpoint.snapshot != "whole" || !config.checkpoint.background))
    fail("checkpoint.max_pending", config.checkpoint.max_pending,
         "checkpoint.snapshot = whole and checkpoint.background = true beside it",
         "only whole copies wait while training goes on: leave it out");
  if (config.checkpoint.model_every == 0 && config.checkpoint.model_dtype != "fp32")
    fail("checkpoint.model_dtype", config.checkpoint.model_dtype, "checkpoint.model_every beside it",
         "only weights that are saved alone have it");
}

void check_data(const Config& config) {
  if (config.data.train.empty())
    field_error(config.where("data.train"), "data.train", "nothing", "a token set PREFIX",
                "make one with `upcycle tokenize`");
  for (const WeightedPath& p : config.data.train) {
    if (p.path.empty())
      field_error(config.where("data.train"), "data.train", "an empty path", "a token set PREFIX",
                  "make one with `upcycle tokenize`");
    if (!(p.weight > 0) || !std::isfinite(p.weight))
      field_error(config.where("data.train"), "data.train", fmt::format("weight {} of {}", p.weight, p.path),
                  "a finite weight > 0", "leave out what is not to be read");
  }
  for (const auto& [name, path] : config.data.valid)
    if (path.empty())
      field_error(config.where("data.valid"), "data.valid", "an empty path for " + name, "a token set PREFIX",
                  "make one with `upcycle tokenize`");
  if (!config.data.split.empty() && !config.data.valid.empty())
    field_error(config.where("data.split"), "data.split", "'" + config.data.split + "'", "it absent beside data.valid",
                "its second share is what is held out: give one of the two");
  if (config.train.eval_every > 0 && config.data.valid.empty() && config.data.split.empty())
    field_error(config.where("train.eval_every"), "train.eval_every", fmt::format("{}", config.train.eval_every),
                "data.valid beside it", "name a held-out token set, or set train.eval_every to 0");
}

ModelConfig spelled_out(ModelConfig m) {
  m.num_key_value_heads = m.kv_heads();
  if (m.num_attention_heads > 0) m.head_dim = m.head_size();
  m.moe_intermediate_size = m.expert_size();
  return m;
}

}  // namespace upcycle
