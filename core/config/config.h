#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

// The one configuration of a run. Field names are the JSON keys; fields.cpp is the table of all of them with defaults
// and one line of help each, from which parsing (parse.h), `upcycle help config`, the saved resolved config
// (describe.h) and the unknown-key suggestions are all made. check.h says which values fit together.
namespace upcycle {

// As transformers computes each (modeling_rope_utils.py).
struct RopeScaling {
  std::string rope_type;  // "" = none | linear | dynamic | yarn | longrope | llama3
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;
  double attention_factor = 0;  // on cos and sin; 0: by the type's own rule
  double beta_fast = 32, beta_slow = 1, mscale = 0, mscale_all_dim = 0;
  bool truncate = true;
  std::vector<double> short_factor = {}, long_factor = {};
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::int64_t hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0, num_attention_heads = 0;
  std::string hidden_act = "silu";       // silu | gelu_tanh: of the gate in MLPs and experts
  std::int64_t num_key_value_heads = 0;  // 0: num_attention_heads
  std::int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  std::int64_t vocab_size = 0, max_position_embeddings = 2048;
  double rope_theta = 10000, rms_norm_eps = 1e-5, initializer_range = 0.02;
  RopeScaling rope_scaling;
  double partial_rotary_factor = 1;  // of each head, the first of its elements
  std::int64_t no_rope_every = 0;    // layer i has no RoPE when (i + 1) % n == 0; 0: all have it
  std::int64_t sliding_window = 0;   // keys that a query sees, its own among them; 0: all before it
  // Granite's: on the embedding (0: sqrt(H), as Gemma has it), on scores (0: 1 / sqrt(D)), on what a layer's parts add,
  // divisor of logits.
  double embedding_multiplier = 1, attention_multiplier = 0, residual_multiplier = 1, logits_scaling = 1;
  bool tie_word_embeddings = false;
  std::string attention_bias = "none";                // none | qkv | all: of the projections
  bool mlp_bias = false, norm_unit_offset = false;    // the latter: norms multiply by 1 + weight
  std::string qk_norm = "none";                       // none | head | full
  std::string norm_placement = "pre";                 // pre | post
  std::int64_t bos_token_id = -1, eos_token_id = -1;  // -1: none
  // Experts; num_local_experts 0 is dense.
  std::int64_t num_local_experts = 0, num_experts_per_tok = 2;
  std::int64_t moe_intermediate_size = 0;  // 0: intermediate_size
  double router_aux_loss_coef = 0.01, router_z_loss_coef = 0;
  std::string router_aux_loss_scope = "micro_batch";  // or "global_batch": whose assignments f_e counts
  std::string router_softmax = "topk_then_softmax";   // or "softmax_then_topk"
  std::string router_score = "softmax";               // or "sigmoid"
  bool router_bias = false;  // of each expert, beside its score in the choice; moved to balance the load
  double router_bias_update_rate = 1e-3;
  std::int64_t moe_every_n_layers = 1;        // layer i is MoE when (i + 1) % n == 0
  std::vector<std::int64_t> mlp_only_layers;  // layers that are dense all the same
  bool shared_expert = false;                 // beside the routed ones
  std::int64_t shared_expert_size = 0;        // 0: intermediate_size
  bool shared_expert_gate = false;            // times the sigmoid of a learned product with its input

  bool is_moe() const { return num_local_experts > 0; }
  bool is_moe_layer(std::int64_t layer) const {
    return is_moe() && (layer + 1) % moe_every_n_layers == 0 &&
           std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer) == mlp_only_layers.end();
  }
  std::int64_t shared_size() const { return shared_expert_size > 0 ? shared_expert_size : intermediate_size; }
  std::int64_t kv_heads() const { return num_key_value_heads > 0 ? num_key_value_heads : num_attention_heads; }
  std::int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
  std::int64_t rotary_size() const {  // R: elements of a head that RoPE turns
    return static_cast<std::int64_t>(static_cast<double>(head_size()) * partial_rotary_factor);
  }
  bool has_rope(std::int64_t layer) const { return no_rope_every == 0 || (layer + 1) % no_rope_every != 0; }
  std::int64_t expert_size() const { return moe_intermediate_size > 0 ? moe_intermediate_size : intermediate_size; }
  bool operator==(const ModelConfig&) const = default;
};

struct InitConfig {
  std::string load, upcycle;  // directories; both empty: random
  bool operator==(const InitConfig&) const = default;
};

struct UpcycleConfig {
  std::string mode = "copy";   // copy | virtual_group
  std::string scale = "none";  // none | down | cube_root
  double drop_ratio = 0, noise_std = 0, router_std = 0.02;
  std::int64_t at_step = -1;  // live conversion after this many steps; -1: none
  bool operator==(const UpcycleConfig&) const = default;
};

struct WeightedPath {
  std::string path;
  double weight = 1;
  bool operator==(const WeightedPath&) const = default;
};
struct DataConfig {
  std::vector<WeightedPath> train;           // a single PREFIX is one path of weight 1
  std::string blend;                         // a file in place of train; parse_config reads it into train
  std::string split;                         // "": all of train is trained on
  std::map<std::string, std::string> valid;  // name -> PREFIX; a single PREFIX is named "valid"
  std::string tokenizer;
  std::int64_t seed = 1;
  bool reset_attention_mask = false, reset_position_ids = false, eod_mask_loss = false;
  std::int64_t eod_token_id = -1;  // -1: the model's eos_token_id, else the tokenizer's
  bool operator==(const DataConfig&) const = default;
};

// How the parameters are updated whose names match `params`, * and ? as in a shell.
struct ParamRule {
  std::string params;
  double lr_mult = 1;        // of the rate that they would have
  double weight_decay = -1;  // -1: what they would have
  bool operator==(const ParamRule&) const = default;
};

struct TrainConfig {
  std::int64_t steps = 0, tokens = 0;                                          // exactly one is given
  std::int64_t seq_length = 256, micro_batch_size = 1, global_batch_size = 8;  // sequences
  std::vector<std::int64_t> rampup_batch_size;  // start, increment, samples (batch_ramp.h); empty: global_batch_size
  std::string optimizer = "adamw";              // adamw | lion | sgd
  double lr = 3e-4, min_lr = 3e-5;              // min_lr: if not given, parse_config sets min_lr_ratio * lr or lr / 10
  double min_lr_ratio = -1;                     // -1: not given
  double decoupled_lr = -1, decoupled_min_lr = -1;   // of embedding and output layer; -1: lr; -1: min_lr
  std::string schedule = "cosine";                   // constant | cosine | wsd
  std::int64_t warmup_steps = 0, warmup_tokens = 0;  // one of the two
  double decay_fraction = 0.2;  // wsd: the share of the steps, at the end, over which lr falls to min_lr
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95;  // beta2: if not given, parse_config sets 0.99 under lion
  std::vector<ParamRule> param_groups;                   // of each parameter the first that matches
  double eps = 1e-8, clip_grad = 1.0;
  std::string master_dtype = "fp32";    // fp32 | bf16_remainder
  std::string moment_dtype = "fp32";    // fp32 | bf16
  std::string gradient_dtype = "fp32";  // fp32 | bf16
  std::int64_t zero_stage = 1;          // 1 | 2
  bool optimizer_offload = false;
  std::string recompute = "none";   // none | selective | full | classes, joined by commas
  std::vector<std::string> freeze;  // patterns of canonical parameter names, * and ? as in a shell
  std::int64_t skip_samples = 0;
  std::int64_t eval_every = 0, eval_steps = 0, log_every = 1;
  std::int64_t max_skipped_steps = 3;  // in a row
  double max_loss_z_score = 0;         // 0: no step is skipped for its loss
  std::int64_t loss_window = 100;      // accepted losses that it is measured by
  std::int64_t check_replicas_every = 100, recompute_check_every = 0;
  std::int64_t straggler_every = 100;  // steps over which ranks' own times are compared; 0: never
  double straggler_ratio = 1.5;        // to the median, from which on a rank is named
  std::int64_t profile_step_start = 0, profile_step_end = 0;  // counted from 1, inclusive; 0: none
  std::string profile_trace;                                  // a file; "": none
  std::string tensorboard_dir;                                // "": no event files

  // Numbers that the optimizer keeps for each parameter beside the master.
  int moments() const { return optimizer == "adamw" ? 2 : optimizer == "lion" ? 1 : 0; }
  bool operator==(const TrainConfig&) const = default;
};

struct ParallelConfig {
  std::int64_t tp = 1, ep = 1, etp = 1, dispatch_chunks = 1;
  double imbalance_factor = 2.0;
  double timeout_s = 600;  // seconds that a rank waits for others
  bool operator==(const ParallelConfig&) const = default;
};

struct CheckpointConfig {
  std::string dir;
  std::int64_t every = 0, keep = 0;  // keep 0: all
  std::int64_t keep_every = 0;       // 0: none
  std::int64_t model_every = 0;      // 0: never
  std::string model_dtype = "fp32";  // fp32 | bf16
  std::string snapshot = "whole";    // whole | bucket
  std::int64_t max_pending = 1;      // saves that wait in memory for the disk
  std::int64_t stop_deadline_s = 0;  // 0: none
  bool background = true, resume = true;
  bool operator==(const CheckpointConfig&) const = default;
};

struct DebugConfig {
  std::string dump;            // a folder; "": nothing is dumped
  std::int64_t dump_step = 0;  // counted from 1; 0: the first that this process trains
  std::string inject;          // faults to cause, for tests (parallel/train/faults.h); "": none
  bool operator==(const DebugConfig&) const = default;
};

struct Config {
  std::int64_t seed = 1;
  std::string dtype = "bf16", device = "cpu";
  ModelConfig model;
  InitConfig init;
  UpcycleConfig upcycle;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  DebugConfig debug;
  std::vector<std::string> given;  // dotted keys that the user set (file or override), e.g. "model.num_local_experts"
  std::vector<std::string> overridden;  // those of them that the command line set last
  std::string file;                     // source of the others; "" = no file

  // For messages: the file that `key` comes from, "command line", or "default".
  std::string where(std::string_view key) const;
  bool was_given(std::string_view key) const;
  DType storage() const { return dtype == "bf16" ? DType::BF16 : DType::F32; }
};

}  // namespace upcycle
