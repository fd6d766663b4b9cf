#pragma once
#include "parallel/plan/plan.h"

namespace upcycle {

// What one rank's device and links reach, per second.
struct StepRates {
  double products = 0;        // FLOPs of matrix products
  double memory = 0;          // bytes of the device's memory
  double link = 0;            // bytes that a rank gives to ranks of its machine
  double network = 0;         // bytes that it gives to ranks of others
  double latency = 0;         // not per second: seconds of one collective
  double host = 0;            // bytes of host memory that a rank's part of its machine moves (train.optimizer_offload)
  int ranks_per_machine = 1;  // neighbours
};

// Seconds of one step of a rank. A product takes the longer of its FLOPs' and its bytes' time, over all of the step.
// Collectives are rings, whose bytes all cross the network where the group spans machines; routing is even. Nothing is
// counted that runs beside something else, and neither norms nor activations.
struct StepTime {
  double products = 0, collectives = 0, offload = 0;
  double total() const { return products + collectives + offload; }
};
StepTime step_time(const Plan& plan, const StepRates& rates);

}  // namespace upcycle
