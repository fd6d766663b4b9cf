#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "core/arena.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// A copy of what this rank writes, in host memory, so that training goes on while the I/O thread works. Planned and
// allocated once. The copies have a stream of their own: on CUDA they overlap with the next step, whose update waits
// for them (Trainer::state_read).
struct Snapshot {
  Arena arena{"checkpoint snapshot"};
  std::unique_ptr<Stream> copies;
  std::vector<OwnedPiece> pieces;    // each logical element on exactly one rank
  std::vector<Tensor> master, m, v;  // fp32, one per piece; v empty under Lion, m too under SGD
};
Snapshot make_snapshot(const Trainer& t);  // the trainer's device must outlive it
std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, int moments);  // bytes

// Starts to copy the trainer's state into the snapshot, as it is now, and lists it for the writer; with `weights_alone`
// the masters, to be written in that type. What the snapshot held before must have been written.
SavedState take_snapshot(Trainer& t, Snapshot& snapshot, std::optional<DType> weights_alone = {});

}  // namespace upcycle
