#pragma once
#include <functional>

#include "launch/backend.h"

namespace upcycle {

// FLOP/s of large matrix products: what MFU is a share of. Measured, so beside other work it may come out too low; a
// step that beats it has it measured again, and where that does not suffice the step itself is the yardstick: MFU is
// never above 1.
class Yardstick {
 public:
  // All in FLOP/s of all ranks. Without `again` nothing is measured a second time.
  explicit Yardstick(double measured, std::function<double()> again = {});

  double flops() const { return flops_; }  // of all ranks
  double mfu(double flops_per_s);          // of a step of all ranks

 private:
  double flops_;
  std::function<double()> again_;
};

// FLOP/s of large products of random normal numbers in `dtype` on this backend (on the CPU: with the threads of this
// process): the best of several. On a GPU that is less than its data sheet says. Takes a fraction of a second and some
// memory, which it gives back.
double measure_peak_flops(const Backend& backend, DType dtype);

// Of a run on `ranks` ranks; the backend outlives it. On a GPU nothing is measured again: its memory is a run's.
Yardstick make_yardstick(const Backend& backend, DType dtype, int ranks);

}  // namespace upcycle
