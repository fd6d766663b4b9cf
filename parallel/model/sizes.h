#pragma once
#include <cstdint>

#include "core/config/config.h"
#include "parallel/comm/mesh.h"

namespace upcycle {

// The dimension letters of one model on one rank. Global sizes have plain letters; *_local is this rank's share.
struct Sizes {
  std::int64_t V, H, F, N, K, D, L;        // vocabulary, hidden, MLP, query heads, key/value heads, head size, layers
  std::int64_t E = 0, k = 0, moe_F = 0;    // experts, experts per token, expert intermediate size
  std::int64_t shared_F = 0;               // the shared expert's
  std::int64_t V_local, V_begin, V_valid;  // padded rows held here, first of them, those not padding
  std::int64_t F_local, N_local, K_local;  // over tp
  std::int64_t E_local = 0, E_begin = 0, moe_F_local = 0;  // over ep, etp
  std::int64_t shared_F_local = 0;                         // over tp
  std::int64_t qkv_local;                                  // (N_local + 2 K_local) * D
  std::int64_t bias = 0, head_norm = 0;                    // as in OpLimits
};

// Throws InputError where the model does not divide over the layout (K < tp, F % tp, E % ep ...), naming the fields.
Sizes sizes_of(const ModelConfig& model, const Layout& layout, const Coordinates& at);

}  // namespace upcycle
