#pragma once
#include <string>

#include "parallel/train/trainer.h"

namespace upcycle {

// After a step that was skipped because something was not finite, and before another is loaded: where that comes from.
// Looks through this rank's parameters, then computes the microbatches again, each rank its own, up to the first with
// NaN or an infinity in it: names the first tensor of the pass that has one and the first such gradient of a parameter
// (an expert's has its number), with rank and microbatch. Says so where nothing of the kind comes again. A collective
// call; alike on all ranks.
std::string find_not_finite(Trainer& t);

}  // namespace upcycle
