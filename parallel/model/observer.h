#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

// Observes training passes (debug.dump): called with each tensor as it is made, in the same order on every layout. A
// tensor is (T, ...), alike on all tp ranks, or this tp rank's (T_local, ...); it holds its values for the call, in the
// order of the model's stream, and is only read. `layer` -1: not a layer's.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void begin_microbatch() = 0;
  virtual void activation(std::int64_t layer, const char* name, const Tensor& x) = 0;
  virtual void gradient(std::int64_t layer, const char* name, const Tensor& dx) = 0;  // of an activation
};

}  // namespace upcycle
