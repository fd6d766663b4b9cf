#pragma once
#include <functional>

#include "launch/backend.h"

namespace upcycle {

// FLOP/s of large matrix products: the reference of MFU. It is measured, so on a busy machine it may be too low; a step
// that is faster has it measured again, and if that is still lower the step itself becomes the reference: MFU is never
// above 1.
class Yardstick {
 public:
  // All in FLOP/s of all ranks. `again` measures a second time; may be null.
  explicit Yardstick(double measured, std::function<double()> again = {});

  double flops() const { return flops_; }  // of all ranks
  double mfu(double flops_per_s);          // flops_per_s: of a step, all ranks

 private:
  double flops_;
  std::function<double()> again_;
};

// FLOP/s of large products of random normal numbers in `dtype` on this backend (on the CPU: with the threads of this
// process): the best of several. On a GPU this is less than the data sheet's. Takes a fraction of a second and
// temporarily some memory.
double measure_peak_flops(const Backend& backend, DType dtype);

// For a run on `ranks` ranks; the backend must outlive it. On a GPU nothing is measured again, because the run uses its
// memory.
Yardstick make_yardstick(const Backend& backend, DType dtype, int ranks);

}  // namespace upcycle
