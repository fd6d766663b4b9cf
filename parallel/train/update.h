#pragma once
#include "parallel/train/optimizer.h"
#include "parallel/train/schedule.h"

// From clipped gradients to parameters that every replica has.
namespace upcycle {

// What computes the update of one piece (n elements), and which tensors it reads and writes beside the piece's master
// and moments.
struct PieceUpdate {
  Ops* ops;
  Stream* stream;
  Tensor param, grad;  // (n)
  Tensor scale;        // fp32 (1)
};
// `lr`: the piece's own.
void update_piece(const Optimizer& o, const TrainMemory& memory, const OwnedPiece& p, const PieceUpdate& at, double lr);

// Updates every owned piece once, with memory.scale, one part of the model (Bucket::layer) after another in forward
// order, at the rate of its row (param_groups.h); counts steps per row. Each part is gathered from its owners as soon
// as it is updated: the model's arrivals list the gathers in flight.
void update_parameters(Optimizer& o, TrainMemory& memory, const LearningRates& rates);
// Gathers one group's parameters from their owners, and waits for them.
void gather_parameters(Optimizer& o, TrainMemory& memory, ParamGroup group);

}  // namespace upcycle
