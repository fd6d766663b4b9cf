#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/arena.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/owned_state.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// A copy of what this rank writes, in host memory, so that training goes on while the I/O thread works. Planned and
// allocated once. The copies have a stream of their own: on CUDA they overlap with the next step, whose update waits
// for them (Trainer::state_read). With checkpoint.snapshot = bucket it is two buffers, which the state goes through
// while training waits.
struct Snapshot {
  Arena arena{"checkpoint snapshot"};
  std::unique_ptr<Stream> copies;
  std::vector<OwnedPiece> pieces;         // each logical element on exactly one rank
  std::vector<StatePiece> states;         // of each piece its master and its moments
  std::vector<std::span<float>> buckets;  // or these
  std::unique_ptr<Staging> packed;        // and, where state is not fp32, what it goes through to them
};
inline constexpr std::int64_t kBucketElements = std::int64_t{16} << 20;  // of a buffer at most, 64 MiB

Snapshot make_snapshot(const Trainer& t, std::int64_t bucket = kBucketElements);  // t's device must outlive it
// Bytes of the checkpoint.max_pending snapshots of a run.
std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, const Config& config);

// Starts to copy the trainer's state into the snapshot, as it is now, and lists it for the writer; with `weights_alone`
// the masters, to be written in that type. What the snapshot held before must have been written. The trainer must stay
// as it is until the writer has started, if the snapshot is in buckets.
SavedState take_snapshot(Trainer& t, Snapshot& snapshot, std::optional<DType> weights_alone = {});

}  // namespace upcycle
