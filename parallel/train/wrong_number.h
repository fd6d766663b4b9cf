#pragma once
#include "core/error.h"

namespace upcycle {

// A number of one rank is another than it can be: copies differ, or a computation done twice. Every rank throws it with
// the same text, which names tensor and rank, before anything was updated or saved.
struct WrongNumber : Error {
  using Error::Error;
};

}  // namespace upcycle
