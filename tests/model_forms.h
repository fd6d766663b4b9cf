#pragma once
#include <array>

#include "core/config/config.h"

// Layers of other forms than Llama's, as families have them, and all at once.
namespace upcycle {

struct ModelForm {
  const char *name, *attention_bias, *qk_norm, *norm_placement;
  bool mlp_bias;

  ModelConfig of(ModelConfig m) const {
    m.attention_bias = attention_bias;
    m.qk_norm = qk_norm;
    m.norm_placement = norm_placement;
    m.mlp_bias = mlp_bias;
    return m;
  }
};

inline constexpr ModelForm kBiases{"Biases", "all", "none", "pre", true};
inline constexpr ModelForm kHeadNorms{"HeadNorms", "qkv", "head", "pre", false};
inline constexpr ModelForm kPostNorms{"PostNorms", "none", "full", "post", false};
inline constexpr ModelForm kEverything{"Everything", "all", "full", "post", true};
inline constexpr std::array kModelForms{kBiases, kHeadNorms, kPostNorms, kEverything};
// Those that a model with experts may have.
inline constexpr ModelForm kBiasedPostNorms{"BiasedPostNorms", "all", "full", "post", false};
inline constexpr std::array kMoeForms{kHeadNorms, kPostNorms, kBiasedPostNorms};

}  // namespace upcycle
