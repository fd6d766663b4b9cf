#pragma once
#include <cstdint>
#include <string>

namespace upcycle {

// What a parameter is in the transformer. With its layer and expert it is one row of the parameter table.
enum class ParamRole : std::uint8_t {
  Embedding,
  AttentionNorm,  // before attention; of its output where norm_placement is post
  Query,
  Key,
  Value,
  QueryBias,
  KeyBias,
  ValueBias,
  QueryNorm,
  KeyNorm,
  AttentionOut,
  AttentionOutBias,
  MlpNorm,  // before the MLP or the experts; of their output where norm_placement is post
  Gate,     // of a dense MLP
  Up,
  Down,
  GateBias,
  UpBias,
  DownBias,
  Router,
  RouterBias,  // of each expert in the choice: no gradient, moved by balancing (router_bias.h of train)
  SharedGate,  // of the expert that every token visits
  SharedUp,
  SharedDown,
  SharedExpertGate,  // its sigmoid's weights
  ExpertGate,        // of one of the routed experts
  ExpertUp,
  ExpertDown,
  FinalNorm,
  Head
};

// The table's names, those of Hugging Face's Llama and Mixtral: what checkpoints store, train.freeze means, and random
// draws are keyed by. In a pattern the first {} is the layer, the second the expert.
const char* canonical_pattern(ParamRole role);
std::string name_of(const char* pattern, std::int64_t layer, std::int64_t expert);
std::string canonical_name(ParamRole role, std::int64_t layer = -1, std::int64_t expert = -1);

}  // namespace upcycle
