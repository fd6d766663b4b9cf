#include "tests/parity_mpi/models.h"

#include <fmt/core.h>

#include "parallel/train/trainer_state.h"
#include "tests/upcycle/models.h"

namespace upcycle::test {
namespace {

constexpr std::int64_t kSlices = 2;  // G

// A size that every tp, etp and ep of this world divides.
std::int64_t unit() {
  const int world = mpi_session().size();
  return world == 5 || world == 7 ? world : 24;
}

}  // namespace

ModelConfig dense_model_of(const Switches& s) {
  Config c = small_config();
  const int world = mpi_session().size();
  c.model.hidden_size = 20;
  c.model.head_dim = 4;
  c.model.num_key_value_heads = std::max(2, world);
  c.model.num_attention_heads = 2 * c.model.num_key_value_heads;
  c.model.intermediate_size = unit() == 24 ? 48 : 8 * unit();
  c.model.vocab_size = 33;
  c.model.tie_word_embeddings = s.tied;
  return s.form == nullptr ? c.model : s.form->of(c.model);
}

UpcycleConfig upcycling_of(const Switches& s) {
  UpcycleConfig u;
  u.mode = s.start == Start::VirtualGroup ? "virtual_group" : "copy";
  u.scale = s.start == Start::VirtualGroup ? "down" : "none";
  u.noise_std = 0.03;
  u.router_std = 0.5;
  return u;
}

std::string Switches::text() const {
  constexpr const char* starts[] = {"Dense", "Copy", "VirtualGroup", "SharedExpert", "GatedExpert"};
  return fmt::format(
      "{}{}_{}micro{}{}{}{}{}{}{}{}", form == nullptr ? "" : form->name, starts[static_cast<int>(start)], microbatches,
      recompute ? "_recompute"
      : classes ? "_classes"
                : "",
      one_expert ? "_k1" : "_k2", every > 1 ? "_every2" : "", chunks > 1 ? "_chunks3" : "", tied ? "_tied" : "",
      masked ? "_masked" : "", tight ? "_tight" : "", zero_stage == 2 ? "_zero2" : "");
}

Config config_of(const Switches& s) {
  Config c = small_config();
  c.model = dense_model_of(s);
  if (s.start != Start::Dense) {
    const std::int64_t G = s.start == Start::VirtualGroup ? kSlices : 1;
    ModelConfig target;
    target.num_local_experts = (mpi_session().size() < 5 ? 12 : mpi_session().size()) * G;
    if (mpi_session().size() == 4 || mpi_session().size() == 2) target.num_local_experts = 8 * G;
    target.num_experts_per_tok = (s.one_expert ? 1 : 2) * G;
    target.moe_intermediate_size = c.model.intermediate_size / G;
    target.router_softmax = s.one_expert ? "softmax_then_topk" : "topk_then_softmax";
    target.router_aux_loss_coef = 0.05;
    target.router_z_loss_coef = 0.01;
    target.moe_every_n_layers = s.every;
    target.shared_expert = s.start == Start::SharedExpert;
    c.model = upcycled_model(c.model, target, upcycling_of(s), "test");
    if (s.start == Start::GatedExpert) {
      c.model.shared_expert = c.model.shared_expert_gate = true;
      c.model.shared_expert_size = c.model.intermediate_size / 2;
      c.model.mlp_only_layers = {0};
    }
  }
  c.train.seq_length = unit() == 24 ? 12 : 2 * unit();
  c.train.micro_batch_size = 2;
  c.train.recompute = s.recompute ? "full" : s.classes ? "attention,mlp,norms" : "none";
  c.train.zero_stage = s.zero_stage;
  c.parallel.dispatch_chunks = s.chunks;
  c.parallel.imbalance_factor = s.tight ? 1 : 4;
  return c;
}

Fill fill_of(const Switches& s) {
  if (s.start == Start::Dense || s.start == Start::SharedExpert || s.start == Start::GatedExpert) return random_fill();
  return [s](Trainer& t) {
    DrawnModel dense(dense_model_of(s), 5);
    const auto source = make_upcycled_source(dense, t.config.model, upcycling_of(s), 1);
    load_trainer_weights(t, *source);
  };
}

void mask_targets(const Config& config, FixedSequences& data) {
  const auto T = static_cast<std::size_t>(config.train.micro_batch_size * data.S);
  for (std::size_t i = 0; i < data.targets.size(); ++i) {
    const std::size_t microbatch = i / T, document = i / 5;
    if (microbatch % 3 == 1 || (document * document + microbatch) % 4 == 0 || i % 7 == 0) data.targets[i] = -1;
  }
}

}  // namespace upcycle::test
