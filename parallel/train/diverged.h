#pragma once
#include "core/error.h"

namespace upcycle {

// The loss or the gradient norm of a step is not finite. Every rank throws it, before anything was updated: the trainer
// is as it was before the step, and may be saved.
struct Diverged : Error {
  using Error::Error;
};

}  // namespace upcycle
