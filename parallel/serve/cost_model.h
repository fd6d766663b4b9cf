#pragma once
#include <span>
#include <vector>

#include "parallel/model/params.h"
#include "parallel/serve/machine.h"
#include "parallel/serve/scheduler.h"

namespace upcycle {

// A step's seconds by what takes them, and what its products read of the weights.
struct StepCost {
  double host = 0, layers = 0;                                     // the machine's fixed times
  double products = 0, experts = 0, attention = 0, transfers = 0;  // of the slowest replica
  double experts_touched = 0;  // expected, summed over the MoE layers and over copies of the experts (edp)
  double weight_bytes = 0;     // of all replicas
  double seconds() const { return host + layers + products + experts + attention + transfers; }
};

// Shares of the tokens that choose each expert, adding up to k, from how many each expert got (Server::expert_tokens).
std::vector<double> expert_shares(std::span<const std::int64_t> tokens, std::int64_t k);

// Predicts steps of a model on a machine, from the parameter table and the rows of a step. Products, experts and
// attention each take the time of their bytes at memory_rate plus that of their FLOPs: predictions of the engine's
// steps on a CPU are half as far off as with the longer of the two. The host's time is added as well. Left out:
// activations' bytes, norms, sampling, and that some experts, so some ranks, get more tokens than others.
class CostModel {
 public:
  // `expert_share` (E): the share of the tokens that choose each expert, adding up to k; empty: all alike.
  CostModel(const ModelConfig& model, const Layout& layout, DType dtype, const Machine& machine,
            std::vector<double> expert_share = {});

  // Of one step of all replicas (dp), which step together.
  StepCost cost(std::span<const std::span<const ScheduledRows>> replicas) const;

  int replicas() const { return layout_.dp; }
  std::int64_t assignments(std::int64_t rows) const;  // (token, expert), summed over the MoE layers

 private:
  double distinct_experts(double rows) const;  // expected in a layer
  double transfer(double bytes) const;         // seconds

  Machine machine_;
  Layout layout_;
  Sizes sizes_;
  double rate_, size_;  // FLOPs per second and bytes of an element of the model's type
  std::int64_t moe_layers_ = 0;
  bool norms_over_tp_ = false;  // qk_norm = full: their sums are added up over tp
  // Elements of this rank's matrices, over all layers: those that each row is multiplied with, the head, the experts.
  double per_row_ = 0, head_ = 0, experts_ = 0;
  double cache_row_bytes_ = 0;                             // keys and values of a token
  double model_dense_bytes_ = 0, model_expert_bytes_ = 0;  // of the whole model, without what is only looked up
  std::vector<double> expert_share_;
};

}  // namespace upcycle
