#include "core/config/fields.h"

namespace upcycle {
namespace {

constexpr double sizes_end = 1 << 30;  // products of two sizes stay well inside 64 bits
constexpr double counts_end = 0x1p53;  // every integer up to it is exact as a double
constexpr Range size{0, sizes_end};
constexpr Range positive_size{1, sizes_end};
constexpr Range count{0, counts_end};
constexpr Range positive_count{1, counts_end};
constexpr Range share{0, 1};
constexpr Range share_below_one{0, 1, false, true};
constexpr Range not_negative{0};
constexpr Range positive{0, std::numeric_limits<double>::infinity(), true};
constexpr bool of_experts = true;

// The key is the path of the member, the default its initialiser: neither can differ from the structs.
#define FIELD(path, ...)                                           \
  Field {                                                          \
#path, [](Config & c) -> Slot { return &c.path; }, __VA_ARGS__ \
  }

std::vector<Field> make_fields() {
  return {
      FIELD(seed, "seed of every random draw: initial weights, upcycling noise", {}, count),
      FIELD(dtype,
            "type of working weights and activations; sums are fp32, and so are master weights and moments by default",
            {"bf16", "fp32"}),
      FIELD(device, "compute device", {"cpu", "cuda"}),

      FIELD(model.hidden_size, "H, width of the residual stream", {}, size),
      FIELD(model.intermediate_size, "F, width of the dense MLP", {}, size),
      FIELD(model.hidden_act, "activation of the gate in MLPs and experts; gelu_tanh: GELU by its formula with tanh",
            {"silu", "gelu_tanh"}),
      FIELD(model.num_hidden_layers, "L, transformer layers", {}, size),
      FIELD(model.num_attention_heads, "N, query heads", {}, size),
      FIELD(model.num_key_value_heads, "K, key/value heads, a divisor of N; 0: N", {}, size),
      FIELD(model.head_dim, "D, size of one head; 0: H / N", {}, size),
      FIELD(model.vocab_size, "V, token ids", {}, size),
      FIELD(model.max_position_embeddings, "longest sequence", {}, positive_size),
      FIELD(model.rope_theta, "base of the rotary position embedding", {}, positive),
      FIELD(model.rms_norm_eps, "added to the mean square in RMSNorm", {}, not_negative),
      FIELD(model.initializer_range, "standard deviation of random initial weights", {}, not_negative),
      FIELD(model.rope_scaling.rope_type, "stretching of RoPE for longer contexts; empty: none",
            {"", "linear", "dynamic", "yarn", "longrope", "llama3"}),
      FIELD(model.rope_scaling.factor, "how many times longer", {}, Range{1}),
      FIELD(model.rope_scaling.low_freq_factor, "llama3: wavelengths above original / this are stretched whole", {},
            positive),
      FIELD(model.rope_scaling.high_freq_factor, "llama3: wavelengths below original / this are kept", {}, positive),
      FIELD(model.rope_scaling.original_max_position_embeddings, "positions before stretching", {}, positive_size),
      FIELD(model.rope_scaling.attention_factor,
            "yarn, longrope: factor on cosines and sines; 0: the type's own, which grows with the logarithm of factor",
            {}, not_negative),
      FIELD(model.rope_scaling.beta_fast, "yarn: frequencies that turn more often in the original context are kept", {},
            positive),
      FIELD(model.rope_scaling.beta_slow, "yarn: those that turn less often are stretched whole", {}, positive),
      FIELD(model.rope_scaling.mscale, "yarn: with mscale_all_dim, both not 0, sets attention_factor", {},
            not_negative),
      FIELD(model.rope_scaling.mscale_all_dim, "yarn: see mscale", {}, not_negative),
      FIELD(model.rope_scaling.truncate, "yarn: the limits between kept and stretched frequencies are whole numbers"),
      FIELD(model.rope_scaling.short_factor,
            "longrope: divisors of the frequencies, for sequences up to the original length"),
      FIELD(model.rope_scaling.long_factor, "longrope: those for longer ones"),
      FIELD(model.partial_rotary_factor, "share of each head that RoPE turns, its first elements", {},
            Range{0, 1, true}),
      FIELD(model.no_rope_every, "layer i has no RoPE when (i + 1) mod this is 0; 0: all have it", {}, size),
      FIELD(model.sliding_window, "keys that a query sees, its own among them; 0: all", {}, size),
      FIELD(model.embedding_multiplier, "factor on the embedding (Granite); 0: sqrt(H), rounded to dtype (Gemma)", {},
            not_negative),
      FIELD(model.attention_multiplier, "factor on attention's scores; 0: 1 / sqrt(D)", {}, not_negative),
      FIELD(model.residual_multiplier, "factor on what attention and MLP add to the residual stream", {}, positive),
      FIELD(model.logits_scaling, "divisor of the logits", {}, positive),
      FIELD(model.tie_word_embeddings, "the output layer is the input embedding"),
      FIELD(model.attention_bias, "projections of attention with a bias: q, k and v, or the output's too",
            {"none", "qkv", "all"}),
      FIELD(model.mlp_bias, "biases on gate, up and down of the dense MLP"),
      FIELD(model.qk_norm,
            "RMSNorm of queries and keys before RoPE: of each head, or of all heads together, over their whole width",
            {"none", "head", "full"}),
      FIELD(model.norm_placement, "x + f(norm(x)), or x + norm(f(x))", {"pre", "post"}),
      FIELD(model.norm_unit_offset, "norms multiply by 1 + weight, and weights start at 0 (Gemma)"),
      FIELD(model.bos_token_id, "token id, begin of text; -1: none", {}, Range{-1, sizes_end}),
      FIELD(model.eos_token_id, "token id, end of document; -1: none", {}, Range{-1, sizes_end}),
      FIELD(model.num_local_experts, "E, experts per MoE layer; 0: the model is dense", {}, size, of_experts),
      FIELD(model.num_experts_per_tok, "k, experts that a token visits", {}, size, of_experts),
      FIELD(model.moe_intermediate_size, "width of one expert; 0: intermediate_size", {}, size, of_experts),
      FIELD(model.router_aux_loss_coef, "weight of the load-balancing loss", {}, not_negative, of_experts),
      FIELD(
          model.router_aux_loss_scope,
          "whose tokens the load-balancing loss counts on each expert: a microbatch's, or, of the global batch, those "
          "of all data-parallel ranks and of the step's microbatches so far",
          {"micro_batch", "global_batch"}, {}, of_experts),
      FIELD(model.router_z_loss_coef, "weight of the router z-loss", {}, not_negative, of_experts),
      FIELD(model.router_softmax,
            "order of softmax and top-k; softmax_then_topk does not renormalise the chosen weights",
            {"topk_then_softmax", "softmax_then_topk"}, {}, of_experts),
      FIELD(model.router_score,
            "what an expert's logit becomes; sigmoid: of that expert alone, and topk_then_softmax divides the chosen "
            "scores by their sum, softmax_then_topk leaves them as they are",
            {"softmax", "sigmoid"}, {}, of_experts),
      FIELD(model.router_bias,
            "under sigmoid: a bias of each expert that is added to its score in the choice alone, and moved after each "
            "step towards an even load",
            {}, {}, of_experts),
      FIELD(model.router_bias_update_rate, "how far it is moved", {}, not_negative, of_experts),
      FIELD(model.moe_every_n_layers, "layer i is MoE when (i + 1) mod this is 0", {}, positive_size, of_experts),
      FIELD(model.mlp_only_layers, "layers, from 0, that are dense all the same", {}, size, of_experts),
      FIELD(model.shared_expert, "a dense MLP that every token visits, beside the routed experts", {}, {}, of_experts),
      FIELD(model.shared_expert_size, "its width; 0: intermediate_size", {}, size, of_experts),
      FIELD(model.shared_expert_gate,
            "it is multiplied by a sigmoid that each token sets, whose weights are trained, as in Qwen2-MoE", {}, {},
            of_experts),

      FIELD(init.load, "model to continue from: a checkpoint or a Hugging Face directory"),
      FIELD(init.upcycle, "dense model to turn into experts; with neither init.* key weights are random"),

      FIELD(upcycle.mode, "experts start as copies of the MLP, or as slices of it (virtual groups)",
            {"copy", "virtual_group"}),
      FIELD(upcycle.scale, "factor on the experts' matrices that compensates for the routing weights",
            {"none", "down", "cube_root"}),
      FIELD(upcycle.drop_ratio, "share of hidden units redrawn per expert (Drop-Upcycling)", {}, share),
      FIELD(upcycle.noise_std, "standard deviation of noise on the copies", {}, not_negative),
      FIELD(upcycle.router_std, "standard deviation of the initial router", {}, not_negative),
      FIELD(upcycle.at_step, "turn the running dense model into experts after this many steps; -1: no", {},
            Range{-1, counts_end}),

      FIELD(data.train, "token set PREFIX, or a blend [{\"path\": PREFIX, \"weight\": w}, ...]"),
      FIELD(data.blend,
            "file in place of data.train: WEIGHT PREFIX WEIGHT PREFIX ..., as Megatron's --data-args-path has it, or "
            "data.train's list"),
      FIELD(data.split,
            "shares of each training set's documents for training, validation and test, such as \"969,30,1\"; the "
            "second is held out in place of data.valid; empty: all is trained on"),
      FIELD(data.valid, "held-out token set PREFIX, or several {\"name\": PREFIX, ...}"),
      FIELD(data.tokenizer, "sentencepiece model; copied into each checkpoint"),
      FIELD(data.seed, "seed of the order of training sequences", {}, count),
      FIELD(data.reset_attention_mask, "a token attends to its own document only, of those in its sequence"),
      FIELD(data.reset_position_ids, "positions count from 0 in each document"),
      FIELD(data.eod_mask_loss, "what follows the end of a document is not predicted from it"),
      FIELD(data.eod_token_id,
            "for these three: the token that ends a document; -1: the model's eos_token_id, else the tokenizer's", {},
            Range{-1, sizes_end}),

      FIELD(train.steps, "optimizer steps in all; give this or tokens", {}, count),
      FIELD(train.tokens, "training tokens in all; give this or steps", {}, count),
      FIELD(train.seq_length, "S, tokens per sequence", {}, positive_size),
      FIELD(train.micro_batch_size, "B, sequences per forward pass on each rank", {}, positive_size),
      FIELD(train.global_batch_size, "sequences per optimizer step, over all ranks", {}, positive_size),
      FIELD(train.rampup_batch_size,
            "[start, increment, samples], as Megatron has it: steps of `start` sequences at first, `increment` more at "
            "equal distances over the run's first `samples` sequences, then global_batch_size; empty: no ramp",
            {}, positive_size),
      FIELD(train.optimizer, "rule that updates the weights", {"adamw", "lion", "sgd"}),
      FIELD(train.lr, "highest learning rate", {}, not_negative),
      FIELD(train.min_lr,
            "learning rate at the end of cosine and wsd; if neither it nor min_lr_ratio is given, a tenth of lr", {},
            not_negative),
      FIELD(train.min_lr_ratio, "min_lr as a share of lr, in place of min_lr; -1: not given", {}, Range{-1, 1}),
      FIELD(train.decoupled_lr, "highest learning rate of the embedding and the output layer; -1: lr", {}, Range{-1}),
      FIELD(train.decoupled_min_lr, "theirs at the end of cosine and wsd; -1: min_lr", {}, Range{-1}),
      FIELD(train.schedule, "learning rate over time; wsd is warm-up, stable, decay", {"constant", "cosine", "wsd"}),
      FIELD(train.warmup_steps, "steps in which the learning rate rises linearly to lr; give this or warmup_tokens", {},
            count),
      FIELD(train.warmup_tokens, "tokens in which it does, in batches of whatever size", {}, count),
      FIELD(train.decay_fraction, "wsd: share of the steps, at the end, over which the rate falls to min_lr", {},
            share),
      FIELD(train.weight_decay, "decoupled weight decay", {}, not_negative),
      FIELD(train.param_groups,
            "rates of parameters by name, * and ? as in a shell; the first that matches a parameter is its group: "
            "lr_mult times its learning rate, weight_decay in place of train.weight_decay (norms and biases: 0)"),
      FIELD(train.beta1, "decay of AdamW's first moment; under lion the moment's share of the update", {},
            share_below_one),
      FIELD(train.beta2,
            "decay of AdamW's second moment; if not given, 0.99 under lion, where it is the moment's decay", {},
            share_below_one),
      FIELD(train.eps, "added to AdamW's denominator", {}, positive),
      FIELD(train.clip_grad, "largest global gradient norm; 0: no clipping", {}, not_negative),
      FIELD(train.master_dtype,
            "what bf16 weights keep of their fp32 masters: all of it in 4 bytes, or what they round off in 17 bits; "
            "the results are the same, bit for bit",
            {"fp32", "bf16_remainder"}),
      FIELD(train.moment_dtype,
            "type of the optimizer's moments; in bf16 they are rounded at random, with their mean kept, alike on every "
            "layout",
            {"fp32", "bf16"}),
      FIELD(train.gradient_dtype,
            "type of the sums of gradients; bf16: each microbatch's, in fp32, are added with one rounding",
            {"fp32", "bf16"}),
      FIELD(train.zero_stage,
            "what replicas divide among them: 1 the optimizer's state; 2 gradients too, reduced in each microbatch", {},
            Range{1, 2}),
      FIELD(
          train.optimizer_offload,
          "on a GPU: masters and moments in host memory, where the CPU updates them; on the CPU they are there anyway"),
      FIELD(train.recompute,
            "activations that backward makes again instead of keeping them: selective is swiglu and norms, which cost "
            "no product; mlp is swiglu too; full is a whole layer but its input and routing",
            {"none", "selective", "full", "attention", "swiglu", "mlp", "norms"}, {}, {}, 3),
      FIELD(train.freeze, "parameters not to train: patterns of names, * and ? as in a shell"),
      FIELD(train.skip_samples,
            "training sequences to pass over: a step takes those that come so many later; set on resuming, it leaves "
            "out what follows",
            {}, count),
      FIELD(train.eval_every, "steps between evaluations on data.valid; 0: never", {}, count),
      FIELD(train.eval_steps, "global batches per evaluation of each set; 0: the whole set", {}, count),
      FIELD(train.log_every, "steps between console lines", {}, positive_count),
      FIELD(
          train.max_skipped_steps,
          "steps in a row that are skipped, because a gradient or the loss is not finite or the loss is a spike, until "
          "the run ends with its state saved",
          {}, positive_count),
      FIELD(
          train.max_loss_z_score,
          "a step is skipped whose loss lies more than so many standard deviations above the mean of the losses before "
          "it; 0: none is",
          {}, not_negative),
      FIELD(train.loss_window,
            "accepted losses that mean and deviation are of; until there are so many none is skipped", {},
            Range{2, sizes_end}),
      FIELD(
          train.check_replicas_every,
          "steps between checks that what ranks hold copies of is the same in every bit, which is checked before each "
          "save too; 0: never",
          {}, count),
      FIELD(train.recompute_check_every,
            "steps between checks that a microbatch computed twice gives the same bits; 0: never", {}, count),
      FIELD(train.straggler_every,
            "steps over which the times are compared that each rank computes itself, waits not counted; 0: never", {},
            count),
      FIELD(train.straggler_ratio, "a rank that takes this many times the median of its peers is named", {},
            Range{1, 1e9, true}),
      FIELD(train.profile_step_start, "first step, counted from 1, that a profiler records; 0: none", {}, count),
      FIELD(train.profile_step_end, "last step that it records", {}, count),
      FIELD(train.profile_trace, "Chrome trace of these steps, of all ranks, as one file; empty: none"),
      FIELD(train.tensorboard_dir, "folder for TensorBoard event files, with Megatron's tags; empty: none"),

      FIELD(parallel.tp, "ranks that share every matrix (tensor parallelism)", {}, positive_size),
      FIELD(parallel.ep, "ranks that share the experts (expert parallelism)", {}, positive_size),
      FIELD(parallel.etp, "ranks that share one expert: 1, or tp", {}, positive_size),
      FIELD(parallel.dispatch_chunks, "parts of the expert exchange, so that transfers overlap GEMMs", {},
            positive_size),
      FIELD(parallel.imbalance_factor, "size of expert buffers, as a multiple of the even share", {}, Range{1}),
      FIELD(parallel.timeout_s, "seconds that a rank waits for others that show no progress before the run ends", {},
            Range{1}),

      FIELD(checkpoint.dir, "the run folder; empty: nothing is saved"),
      FIELD(checkpoint.every, "steps between checkpoints; 0: only the last step", {}, count),
      FIELD(checkpoint.keep, "newest checkpoints to keep; 0: all; weights alone are not counted and stay", {}, count),
      FIELD(checkpoint.keep_every,
            "steps that are multiples of this are never removed, beside the checkpoint.keep newest; 0: none", {},
            count),
      FIELD(checkpoint.model_every,
            "steps between saves of the weights alone, for reading: training can not resume from them; 0: never", {},
            count),
      FIELD(checkpoint.model_dtype, "type in which weights alone are saved", {"fp32", "bf16"}),
      FIELD(checkpoint.snapshot,
            "what a save copies to host memory: the whole state, which is written while training goes on, or a bucket "
            "at a time through two bounded buffers, while training waits",
            {"whole", "bucket"}),
      FIELD(checkpoint.max_pending,
            "saves that may wait in memory for the disk, each with a copy of the state; the next one waits for the "
            "oldest of them",
            {}, Range{1, 8}),
      FIELD(checkpoint.stop_deadline_s,
            "seconds after SIGTERM or SIGUSR1 in which the save must have ended, else the process ends without it; 0: "
            "none",
            {}, Range{0, 1e9}),
      FIELD(checkpoint.background,
            "write while training goes on; under snapshot = bucket what is left to do: sync, hash, publish"),
      FIELD(checkpoint.resume, "resume from the run folder's newest checkpoint"),

      FIELD(debug.dump, "folder for one step's activations and gradients, for `upcycle diff`; empty: none"),
      FIELD(debug.dump_step, "the step to dump, counted from 1; 0: the first that this process trains", {}, count),
      FIELD(debug.inject, "faults to cause, for tests of what a run does about them; empty: none"),
  };
}
#undef FIELD

}  // namespace

bool Range::contains(double x) const {
  return (open_min ? x > min : x >= min) && (open_max ? x < max : x <= max);  // false for NaN
}

const std::vector<Field>& fields() {
  static const std::vector<Field> table = make_fields();
  return table;
}

const Field* find_field(std::string_view key) {
  for (const Field& f : fields())
    if (f.key == key) return &f;
  return nullptr;
}

bool is_section(std::string_view key) {
  for (const Field& f : fields())
    if (f.key.size() > key.size() && f.key[key.size()] == '.' && f.key.starts_with(key)) return true;
  return false;
}

std::vector<std::string> keys_and_sections() {
  std::vector<std::string> all;
  for (const Field& f : fields()) {
    for (std::size_t dot = f.key.find('.'); dot != std::string::npos; dot = f.key.find('.', dot + 1)) {
      const std::string section = f.key.substr(0, dot);
      bool known = false;
      for (const std::string& a : all) known = known || a == section;
      if (!known) all.push_back(section);
    }
    all.push_back(f.key);
  }
  return all;
}

ModelConfig with_experts_of(const ModelConfig& experts, const ModelConfig& model) {
  Config from, to;
  from.model = experts;
  to.model = model;
  for (const Field& f : fields())
    if (f.of_experts) std::visit([&](auto* value) { *value = *std::get<decltype(value)>(f.slot(from)); }, f.slot(to));
  return to.model;
}

}  // namespace upcycle
