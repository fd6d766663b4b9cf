#pragma once
#include <cstddef>

#include "parallel/train/trainer.h"

namespace upcycle {

// Memory that nothing else uses now. A trainer's gradients are, between steps: each step fills them first.
struct IdleMemory {
  void* data = nullptr;
  std::size_t bytes = 0;
};
IdleMemory idle_gradients(const Trainer& t);

// A tensor (n) at the beginning of `idle`, which is then what is left behind it, aligned; where it does not fit, in
// `own`, which is allocated for it.
Tensor take_idle(IdleMemory& idle, Arena& own, Device& device, DType dtype, std::int64_t n);

}  // namespace upcycle
