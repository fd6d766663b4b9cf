#pragma once
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

namespace upcycle::test {

// What all ranks together keep between steps, every matrix whole, on every rank: exactly comparable between layouts and
// backends. Working weights are the owners'. A collective call.
TrainedState whole_state(const Trainer& t);

// The raw gradients after compute_gradients, in the order of the global table's rows, every matrix whole. A collective
// call.
std::vector<std::vector<float>> whole_gradients(const Trainer& t);

// Those that this rank owns, one after the other.
std::vector<float> owned_gradients(const Trainer& t);

// ||a - b|| <= relative ||b|| + absolute ||all of b||, for each parameter's masters.
void expect_near_masters(const TrainedState& a, const TrainedState& b, double relative, double absolute);

}  // namespace upcycle::test
