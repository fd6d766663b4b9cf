#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// One step on any layout against the same step on one rank. The reference runs on rank 0 alone, on a mesh of one rank
// and the CPU, whatever device is under test, and is broadcast.
namespace upcycle::test {

struct Parallelism {
  int tp = 1, ep = 1, etp = 1;
  std::string text() const;
};

// Every legal layout of this world for a model: make_layout and sizes_of decide. A dense model has those of ep = etp =
// 1.
std::vector<Parallelism> legal_layouts(const ModelConfig& model);
Mesh make_test_mesh(const Rig& rig, const Parallelism& p);
// Whether any parameter has, which ZeRO-2 needs.
bool has_replicas(const ModelConfig& model, const Parallelism& p);

// Sets a fresh trainer's weights, alike on every layout.
using Fill = std::function<void(Trainer&)>;

struct Reference {
  StepResult result;
  std::vector<std::vector<float>> gradients;  // raw, per row of the global table
  std::vector<double> norms;
  double norm = 0;
  // (microbatches, MoE layers, T, k), in the order the run sees them.
  std::vector<std::int32_t> routing;
  double gap = 0;  // between the logits of the k-th and the next expert, the smallest of all tokens
};
// A collective call.
Reference one_rank_reference(const Config& config, const Fill& fill, const FixedSequences& sequences);

// What every microbatch's tokens choose, in the order of Reference::routing, from this rank's forward passes (tokens of
// other ranks: -1), and each microbatch's smallest gap (infinite if this rank does not compute it).
struct Routing {
  std::vector<std::int32_t> chosen;
  std::vector<double> gaps;
};
Routing routing_of(Trainer& t, const FixedSequences& sequences);

// ||g - g0|| of every row of the global table, each element from its owner: raw gradients after compute_gradients
// against `gradients`, those of one rank. A collective call.
std::vector<double> gradient_differences(const Trainer& t, const std::vector<std::vector<float>>& gradients);

// Loss, router losses and metrics, gradient norm and, by core/measure.h, every raw gradient. `t` is as
// compute_gradients left it.
void expect_parity(Trainer& t, const StepResult& got, const Reference& want);

// All comparisons for one layout, after asserting that both route alike. `check` sees the trainer after its step.
using Check = std::function<void(Trainer&)>;
void compare_layout(const Config& config, const Parallelism& p, const Fill& fill, const FixedSequences& sequences,
                    const Reference& want, const Check& check = {});
// For every legal layout of this world.
void compare_all_layouts(const Config& config, const Fill& fill, const FixedSequences& sequences,
                         const Check& check = {});

// `count` pseudo-random sequences whose microbatches have no choice of an expert so close that rounding could decide it
// (gap > `gap`): layouts must agree on them. A collective call.
FixedSequences clear_sequences(const Config& config, const Fill& fill, std::int64_t count, double gap = 1e-4);

// How many choices of this rank's tokens are not `want`'s, summed over all ranks. A collective call.
double different_choices(const Trainer& t, const Routing& routing, const Reference& want);

// Random weights of config.seed. Router logits are spread by router_std * sqrt(H): far enough for clear choices; if
// they were much further apart, their rounding would decide a token's weights.
Fill random_fill(double router_std = 0.5);

}  // namespace upcycle::test
