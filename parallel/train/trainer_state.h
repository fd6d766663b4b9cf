#pragma once
#include "parallel/checkpoint/load.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/trainer.h"

// Between a trainer and files: everything walks the parameter table.
namespace upcycle {

// Takes whole rows of this rank's part of a parameter: rounds them into the parameters, keeps what it owns as masters.
// `t` and `staging` must outlive it.
StoreRows store_trainer_rows(Trainer& t, Staging& staging);

// Draws this rank's parameters (initialize_weights) and copies them into its masters; leaves moments and step counts
// unchanged.
void initialize_trainer(Trainer& t, std::uint64_t seed);

// Fills this rank's parameters and masters; moments and step counts start fresh.
void load_trainer_weights(Trainer& t, TensorSource& source);

// Resumes: weights, masters, moments, step counts, data position, totals. From any saved layout, bitwise.
void restore_trainer(Trainer& t, Checkpoint& checkpoint);

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

// Starts to copy the trainer's state into the snapshot, as it is now, and lists it for the writer. What the snapshot
// held before must have been written.
SavedState take_snapshot(Trainer& t, Snapshot& snapshot);

// Step counts, totals and layout of the trainer; init, config and tokenizer are the caller's.
CheckpointInfo checkpoint_info(const Trainer& t);

}  // namespace upcycle
