#pragma once
#include <cstdint>
#include <vector>

#include "parallel/comm/layout.h"
#include "parallel/upcycle/expert_maker.h"

// Who sends what when a running dense model becomes an MoE. All of it follows from the two parameter tables, so every
// rank knows its part, and `plan` every rank's, without asking.
namespace upcycle {

// Of the fp32 masters (bf16 runs; in fp32 the parameters are the masters and are on every rank of dp already), or of
// the moments, which only parameters that stay have.
enum class LiveState : std::uint8_t { Masters, Moments };

// One rectangle of a dense parameter on its way between this rank and `peer`.
struct Transfer {
  std::int64_t round;
  int peer;
  std::size_t row;     // of the dense table
  Rectangle part;      // of the global matrix
  std::int64_t shard;  // where its first element lies in the sender's optimizer buffers...
  std::int64_t width;  // ...and from one of its rows to the next
};

// Every element that a rank needs comes to it once. An exchange runs in rounds: in each, all ranks send what one
// stretch of their own optimizer buffers holds, so that all send at a time.
struct LiveExchange {
  std::int64_t shard_size = 0;  // elements of a rank's optimizer buffers of dense parameters, the same on all
  std::int64_t rounds = 1;
  std::vector<Transfer> sends, receives;  // by round, then peer; both sides of a pair have one order
  std::int64_t sent() const;              // elements that this rank gives, to itself too
};
// All in one round.
LiveExchange plan_exchange(LiveState state, const ModelConfig& dense, const ExpertMaker& maker, const Layout& layout,
                           int rank);

constexpr std::int64_t kLiveBufferElements = std::int64_t{5} << 20;  // fp32, of what is sent and of what is received

// The longest stretch at which no round of this rank sends or receives more than its buffers, of a plan in one round; a
// shorter one that another rank finds for itself fits too. Buffers hold an element a rank at least.
std::int64_t longest_stretch(const LiveExchange& plan, int world, std::int64_t buffer_elements);
void cut_into_rounds(LiveExchange& plan, std::int64_t stretch);

// Whether each rank of `rank`'s tp group has in its own dense slices all that its experts are made of.
bool experts_are_local(const ModelConfig& dense, const ExpertMaker& maker, const Layout& layout, int rank);

// The dense MLPs that become experts, in the flat buffer of a dense rank: gate, up and down are one stretch of it.
struct MlpRange {
  std::int64_t layer, begin, end;
};
std::vector<MlpRange> mlp_ranges(const ParamTable& dense, const ModelConfig& moe);

// Bytes that this rank gives to the collectives of a conversion (what the trace counts; its own part included).
struct LiveBytes {
  std::int64_t statistics = 0;   // all_reduce over the world: drop_ratio's
  std::int64_t working_tp = 0;   // all_gather over tp: a layer's dense MLP at a time; 0 where experts are local
  std::int64_t working_edp = 0;  // all_gather over edp: experts' working weights, where they are rounded new masters
  std::int64_t agreement = 0;    // max_of over the world: on the rounds of an exchange
  std::int64_t masters = 0, moments = 0;  // all_to_all_v over the world
};
LiveBytes plan_live(const ModelConfig& dense, const Config& moe, const Layout& layout, int rank);

}  // namespace upcycle
