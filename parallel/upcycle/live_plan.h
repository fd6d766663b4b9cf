#pragma once
#include <cstdint>
#include <vector>

#include "parallel/comm/layout.h"
#include "parallel/upcycle/expert_maker.h"

// Who sends what when a running dense model becomes an MoE. It follows from the two parameter tables alone, so every
// rank knows its part, and `plan` every rank's, without communication.
namespace upcycle {

// What an exchange moves: the fp32 masters (bf16 runs; in fp32 the parameters are the masters and are on every rank of
// dp already), or the moments, which only retained parameters have.
enum class LiveState : std::uint8_t { Masters, Moments };

// One rectangle of a dense parameter, sent between this rank and `peer`.
struct Transfer {
  std::int64_t round;
  int peer;
  std::size_t row;     // of the dense table
  Rectangle part;      // of the global matrix
  std::int64_t shard;  // its first element in the sender's optimizer buffers,
  std::int64_t width;  // and the distance from one of its rows to the next
};

// Every element that a rank needs reaches it once. An exchange runs in rounds: in each, every rank sends one stretch of
// its own optimizer buffers, so that all send at the same time.
struct LiveExchange {
  std::int64_t shard_size = 0;  // elements of a rank's optimizer buffers of dense parameters, the same on all
  std::int64_t rounds = 1;
  std::vector<Transfer> sends, receives;  // by round, then peer; in the same order on both sides of a pair
  std::int64_t sent() const;              // elements that this rank gives, to itself too
};
// The whole exchange as one round.
LiveExchange plan_exchange(LiveState state, const ModelConfig& dense, const ExpertMaker& maker, const Layout& layout,
                           int rank);

constexpr std::int64_t kLiveBufferElements = std::int64_t{5} << 20;  // fp32, of what is sent and of what is received

// Of a one-round plan: the longest stretch with which no round of this rank sends or receives more than its buffers
// hold; a shorter one, found by another rank, fits too. Buffers hold at least one element per rank.
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
  std::int64_t working_tp = 0;   // all_gather over tp: one layer's dense MLP at a time; 0 where experts are local
  std::int64_t working_edp = 0;  // all_gather over edp: experts' working weights, where they are rounded new masters
  std::int64_t agreement = 0;    // max_of over the world: on the rounds of an exchange
  std::int64_t masters = 0, moments = 0;  // all_to_all_v over the world
};
LiveBytes plan_live(const ModelConfig& dense, const Config& moe, const Layout& layout, int rank);

}  // namespace upcycle
