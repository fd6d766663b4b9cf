#pragma once
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/train/trainer.h"

// Between a trainer and files: everything walks the parameter table.
namespace upcycle {

// Takes whole rows of this rank's part of a parameter: rounds them into the parameters, keeps what it owns as masters.
// `t` must outlive it.
StoreRows store_trainer_rows(Trainer& t);

// Fills this rank's parameters and masters; moments and step counts start fresh.
void load_trainer_weights(Trainer& t, TensorSource& source);

// Resumes: weights, masters, moments, step counts, data position, totals. Any saved layout to this one, bitwise.
void restore_trainer(Trainer& t, Checkpoint& checkpoint);

// A copy of what this rank writes, so that training goes on while the I/O thread works. Planned and allocated once.
struct Snapshot {
  std::unique_ptr<Device> host = make_cpu_device();  // the I/O thread reads it
  Arena arena{"checkpoint snapshot"};
  std::vector<OwnedPiece> pieces;    // each logical element on exactly one rank
  std::vector<Tensor> master, m, v;  // fp32, a piece each; m and v empty under SGD
};
Snapshot make_snapshot(const Trainer& t);
std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, bool adamw);  // bytes

// Copies the trainer's state into the snapshot and lists it for the writer.
std::vector<SavedPiece> take_snapshot(Trainer& t, Snapshot& snapshot);

// Step counts, totals and layout of the trainer; init, config and tokenizer are the caller's.
CheckpointInfo checkpoint_info(const Trainer& t);

}  // namespace upcycle
