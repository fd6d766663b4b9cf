#pragma once
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/load.h"
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

// Step counts, totals and layout of the trainer; init, config and tokenizer are the caller's.
CheckpointInfo checkpoint_info(const Trainer& t);

}  // namespace upcycle
