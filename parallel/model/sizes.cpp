#include "parallel/model/sizes.h"

#include <algorithm>

#include "core/error.h"

namespace upcycle {
namespace {
std::int64_t share(std::int64_t n, int parts, const char* size_name, const char* group_name) {
  if (n % parts != 0)
    input_error("model.{} = {} can not be cut in {} = {} equal parts; choose a {} that divides it", size_name, n,
                group_name, parts, group_name);
  return n / parts;
}
}  // namespace

Sizes sizes_of(const ModelConfig& model, const Layout& layout, const Coordinates& at) {
  Sizes s{};
  s.V = model.vocab_size;
  s.H = model.hidden_size;
  s.F = model.intermediate_size;
  s.N = model.num_attention_heads;
  s.K = model.kv_heads();
  s.D = model.head_size();
  s.L = model.num_hidden_layers;
  if (s.K < layout.tp)
    input_error("model.num_key_value_heads = {} is smaller than parallel.tp = {}; choose parallel.tp <= {}", s.K,
                layout.tp, s.K);
  s.N_local = share(s.N, layout.tp, "num_attention_heads", "parallel.tp");
  s.K_local = share(s.K, layout.tp, "num_key_value_heads", "parallel.tp");
  s.F_local = share(s.F, layout.tp, "intermediate_size", "parallel.tp");
  s.V_local = (s.V + layout.tp - 1) / layout.tp;  // the last rank's rows past V are padding, in memory only
  s.V_begin = s.V_local * at.tp;
  s.V_valid = std::clamp<std::int64_t>(s.V - s.V_begin, 0, s.V_local);
  s.qkv_local = (s.N_local + 2 * s.K_local) * s.D;
  if (model.attention_bias != "none") s.bias = s.qkv_local;
  if (model.attention_bias == "all") s.bias = std::max(s.bias, s.H);
  if (model.mlp_bias) s.bias = std::max({s.bias, s.H, 2 * s.F_local});
  if (model.qk_norm != "none") s.head_norm = model.qk_norm == "full" ? s.N_local * s.D : s.D;
  if (model.is_moe()) {
    s.E = model.num_local_experts;
    s.k = model.num_experts_per_tok;
    s.moe_F = model.expert_size();
    s.E_local = share(s.E, layout.ep, "num_local_experts", "parallel.ep");
    s.E_begin = s.E_local * at.ep;
    s.moe_F_local = share(s.moe_F, layout.etp, "moe_intermediate_size", "parallel.etp");
    if (model.shared_expert) {
      s.shared_F = model.shared_size();
      s.shared_F_local = share(s.shared_F, layout.tp, "shared_expert_size", "parallel.tp");
    }
  }
  return s;
}

}  // namespace upcycle
