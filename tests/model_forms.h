#pragma once
#include <array>

#include "core/config/config.h"

// Layers of other forms than Llama's, as families have them, and all at once.
namespace upcycle {

struct ModelForm {
  const char *name, *attention_bias, *qk_norm, *norm_placement;
  bool mlp_bias, multiplied = false;  // Granite's factors, and RoPE of a part of each head in some of the layers
  bool gemma = false;                 // its activation, norms and factor on the embedding

  ModelConfig of(ModelConfig m) const {
    m.attention_bias = attention_bias;
    m.qk_norm = qk_norm;
    m.norm_placement = norm_placement;
    m.mlp_bias = mlp_bias;
    if (gemma) {
      m.hidden_act = "gelu_tanh";
      m.norm_unit_offset = true;
      m.embedding_multiplier = 0;
    }
    if (!multiplied) return m;
    m.embedding_multiplier = 3;
    m.attention_multiplier = 0.4;
    m.residual_multiplier = 0.6;
    m.logits_scaling = 1.5;
    m.partial_rotary_factor = 0.7;  // 4 of 6, 2 of 4
    m.no_rope_every = 2;
    m.rope_scaling.rope_type = "yarn";
    m.rope_scaling.factor = 4;
    m.rope_scaling.original_max_position_embeddings = 8;
    return m;
  }
};

inline constexpr ModelForm kBiases{"Biases", "all", "none", "pre", true};
inline constexpr ModelForm kHeadNorms{"HeadNorms", "qkv", "head", "pre", false};
inline constexpr ModelForm kPostNorms{"PostNorms", "none", "full", "post", false};
inline constexpr ModelForm kEverything{"Everything", "all", "full", "post", true};
inline constexpr ModelForm kMultiplied{"Multiplied", "none", "none", "pre", false, true};
inline constexpr ModelForm kMultipliedPostNorms{"MultipliedPostNorms", "qkv", "full", "post", false, true};
inline constexpr ModelForm kGemma{"Gemma", "none", "none", "pre", false, false, true};
inline constexpr ModelForm kGemmaPostNorms{"GemmaPostNorms", "all", "none", "post", false, false, true};
inline constexpr std::array kModelForms{kBiases, kHeadNorms, kPostNorms, kEverything, kMultiplied, kGemma};
// Those that a model with experts may have.
inline constexpr ModelForm kBiasedPostNorms{"BiasedPostNorms", "all", "full", "post", false};
inline constexpr std::array kMoeForms{kHeadNorms,  kPostNorms,           kBiasedPostNorms,
                                      kMultiplied, kMultipliedPostNorms, kGemma};

}  // namespace upcycle
