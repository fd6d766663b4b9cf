#include "parallel/model/param_role.h"

#include "core/check.h"

namespace upcycle {

const char* canonical_pattern(ParamRole role) {
  switch (role) {
    case ParamRole::Embedding:
      return "model.embed_tokens.weight";
    case ParamRole::AttentionNorm:
      return "model.layers.{}.input_layernorm.weight";
    case ParamRole::Query:
      return "model.layers.{}.self_attn.q_proj.weight";
    case ParamRole::Key:
      return "model.layers.{}.self_attn.k_proj.weight";
    case ParamRole::Value:
      return "model.layers.{}.self_attn.v_proj.weight";
    case ParamRole::QueryBias:
      return "model.layers.{}.self_attn.q_proj.bias";
    case ParamRole::KeyBias:
      return "model.layers.{}.self_attn.k_proj.bias";
    case ParamRole::ValueBias:
      return "model.layers.{}.self_attn.v_proj.bias";
    case ParamRole::QueryNorm:
      return "model.layers.{}.self_attn.q_norm.weight";
    case ParamRole::KeyNorm:
      return "model.layers.{}.self_attn.k_norm.weight";
    case ParamRole::AttentionOut:
      return "model.layers.{}.self_attn.o_proj.weight";
    case ParamRole::AttentionOutBias:
      return "model.layers.{}.self_attn.o_proj.bias";
    case ParamRole::MlpNorm:
      return "model.layers.{}.post_attention_layernorm.weight";
    case ParamRole::Gate:
      return "model.layers.{}.mlp.gate_proj.weight";
    case ParamRole::Up:
      return "model.layers.{}.mlp.up_proj.weight";
    case ParamRole::Down:
      return "model.layers.{}.mlp.down_proj.weight";
    case ParamRole::GateBias:
      return "model.layers.{}.mlp.gate_proj.bias";
    case ParamRole::UpBias:
      return "model.layers.{}.mlp.up_proj.bias";
    case ParamRole::DownBias:
      return "model.layers.{}.mlp.down_proj.bias";
    case ParamRole::Router:
      return "model.layers.{}.block_sparse_moe.gate.weight";
    case ParamRole::RouterBias:
      return "model.layers.{}.block_sparse_moe.gate.e_score_correction_bias";
    case ParamRole::SharedGate:
      return "model.layers.{}.block_sparse_moe.shared_expert.gate_proj.weight";
    case ParamRole::SharedUp:
      return "model.layers.{}.block_sparse_moe.shared_expert.up_proj.weight";
    case ParamRole::SharedDown:
      return "model.layers.{}.block_sparse_moe.shared_expert.down_proj.weight";
    case ParamRole::SharedExpertGate:
      return "model.layers.{}.block_sparse_moe.shared_expert_gate.weight";
    case ParamRole::ExpertGate:
      return "model.layers.{}.block_sparse_moe.experts.{}.w1.weight";
    case ParamRole::ExpertUp:
      return "model.layers.{}.block_sparse_moe.experts.{}.w3.weight";
    case ParamRole::ExpertDown:
      return "model.layers.{}.block_sparse_moe.experts.{}.w2.weight";
    case ParamRole::FinalNorm:
      return "model.norm.weight";
    case ParamRole::Head:
      return "lm_head.weight";
  }
  UPCYCLE_CHECK(false, "no parameter of role {}", static_cast<int>(role));
}

std::string name_of(const char* pattern, std::int64_t layer, std::int64_t expert) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}

std::string canonical_name(ParamRole role, std::int64_t layer, std::int64_t expert) {
  return name_of(canonical_pattern(role), layer, expert);
}

}  // namespace upcycle
