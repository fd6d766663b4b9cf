#pragma once
#include <vector>

#include "parallel/model/observer.h"
#include "parallel/model/transformer.h"

namespace upcycle {

// What the experts of one MoE layer did with the tokens that they were observed on.
struct ObservedExperts {
  std::int64_t layer = 0;
  std::vector<std::int32_t> chosen;       // (tokens, k)
  std::vector<std::int64_t> assignments;  // (E)
  double entropy = 0;                     // of the router's probabilities, nats, summed over tokens
  // Of two experts' outputs for a token: the cosine, mean over pairs, summed over tokens. An output of zeros (routed
  // experts beside a shared one at their start) has no direction: it is in no pair, and tokens without one do not
  // count.
  double output_cosine = 0;
  std::int64_t tokens = 0, compared_tokens = 0;
};

// Observes passes of inference on one rank; T must be a multiple of the pass's expert_row_align. `outputs`: after each
// MoE layer all of its experts are applied to all tokens, in buffers of the layer that have served (the passes' own
// results do not change).
class ExpertsObserver final : public Observer {
 public:
  ExpertsObserver(Transformer& m, bool outputs);
  void begin_microbatch() override {}
  void activation(std::int64_t layer, const char* name, const Tensor& x) override;
  void gradient(std::int64_t, const char*, const Tensor&) override {}

  const std::vector<ObservedExperts>& layers() const { return layers_; }  // the MoE layers

 private:
  void add_routing(ObservedExperts& seen, const RouterState& router);
  void add_outputs(ObservedExperts& seen, const LayerWeights& w, LayerState& a);

  Transformer& m_;
  bool outputs_;
  std::vector<ObservedExperts> layers_;
};

// Share of (token, chosen expert) pairs of `a` that are not in `b`, which saw the same tokens with the same k.
double routing_changed(const ObservedExperts& a, const ObservedExperts& b, std::int64_t k);

}  // namespace upcycle
