#include "parallel/upcycle/idle_memory.h"

#include <algorithm>

namespace upcycle {

IdleMemory idle_gradients(const Trainer& t) { return {t.memory.gradients.data(), t.memory.gradients.capacity()}; }

Tensor take_idle(IdleMemory& idle, Arena& own, Device& device, DType dtype, std::int64_t n) {
  const Tensor inside(idle.data, dtype, {n});
  if (inside.bytes() <= idle.bytes) {
    const std::size_t taken = std::min(Arena::align(inside.bytes()), idle.bytes);
    idle = {static_cast<char*>(idle.data) + taken, idle.bytes - taken};
    return inside;
  }
  (void)own.take(dtype, {n});
  own.allocate(device);
  return own.take(dtype, {n});
}

}  // namespace upcycle
