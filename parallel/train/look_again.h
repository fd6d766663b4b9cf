#pragma once
#include <functional>
#include <string>

#include "parallel/train/trainer.h"

// A microbatch's forward and backward by themselves, to look for what is wrong: nothing is reduced over replicas,
// nothing updated, and the step's gradients are lost. Functions that take the trainer are collective.
namespace upcycle {

// Shown, in the order of the pass: activations and their gradients (observer.h), the gradient of each parameter as this
// rank has it, complete for the microbatch, and what the loss is made of. As many on all ranks, under names that differ
// between ranks only where they hold other experts. `parameter`: its name, of a parameter's gradient, else "".
struct Seen {
  std::int64_t place;  // in the pass
  std::string name, parameter;
  const Tensor& values;
};
using Look = std::function<void(const Seen&)>;

// This rank's microbatch `j` of the loaded step, which has `valid` tokens (microbatch.h).
void look_at_microbatch(Trainer& t, std::int64_t j, double valid, const Look& look);

}  // namespace upcycle
