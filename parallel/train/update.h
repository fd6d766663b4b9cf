#pragma once
#include "parallel/train/optimizer.h"

// From clipped gradients to parameters that every replica has.
namespace upcycle {

// Updates every owned piece once, with memory.scale, one part of the model (Bucket::layer) after another in forward
// order; counts steps per row. Each part is gathered from its owners as soon as it is updated: the model's arrivals
// list the gathers in flight.
void update_parameters(Optimizer& o, TrainMemory& memory, double lr);
// Gathers one group's parameters from their owners, and waits for them.
void gather_parameters(Optimizer& o, TrainMemory& memory, ParamGroup group);

}  // namespace upcycle
