#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

// One who looks at training passes (debug.dump): told of tensors as they are made, in an order that is the same on
// every layout. A tensor is (T, ...), alike on all tp ranks, or this tp rank's (T_local, ...); it holds its values for
// the call, in the order of the model's stream, and is only read. `layer` -1: not a layer's.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void begin_microbatch() = 0;
  virtual void activation(std::int64_t layer, const char* name, const Tensor& x) = 0;
  virtual void gradient(std::int64_t layer, const char* name, const Tensor& dx) = 0;  // of an activation
};

}  // namespace upcycle
