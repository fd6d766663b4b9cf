#pragma once
#include <cstddef>

#include "parallel/train/trainer.h"

namespace upcycle {

// Memory that nothing else uses: a trainer's gradients between steps, because each step overwrites them first.
struct IdleMemory {
  void* data = nullptr;
  std::size_t bytes = 0;
};
IdleMemory idle_gradients(const Trainer& t);

// A tensor (n) from the beginning of `idle`, which shrinks to the aligned rest; if it does not fit, allocated in `own`.
Tensor take_idle(IdleMemory& idle, Arena& own, Device& device, DType dtype, std::int64_t n);

}  // namespace upcycle
