#pragma once
#include "parallel/train/trainer.h"

namespace upcycle {

// Computes forward and backward of one microbatch of the loaded step (microbatch.h) twice, each rank its own, and
// compares every activation, gradient and the loss bitwise. Where one differs it is computed a third time: a passing
// fault if that is as one of the two, else a lasting one. Throws WrongNumber with the first tensor of the pass that
// differs, rank, and which of the two it is. The step's gradients must not have begun. A collective call of the world.
void check_recompute(Trainer& t);

}  // namespace upcycle
