#pragma once
#include "core/error.h"

namespace upcycle {

// More steps in a row were skipped (Skipped, step.h) than train.max_skipped_steps allows. Every rank throws it.
struct Diverged : Error {
  using Error::Error;
};

}  // namespace upcycle
