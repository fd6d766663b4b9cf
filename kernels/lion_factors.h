#pragma once
#include "kernels/op_types.h"

namespace upcycle {

// One step's factors, the same for all elements and devices; computed in fp64 as AdamW's are.
struct LionFactors {
  float decay;                       // 1 - lr * weight_decay
  float beta1, beta2, rest1, rest2;  // rest = 1 - beta
  float lr;
};

inline LionFactors factors_of(const LionStep& step) {
  const double beta1 = static_cast<double>(step.beta1), beta2 = static_cast<double>(step.beta2);
  return {static_cast<float>(1 - static_cast<double>(step.lr) * static_cast<double>(step.weight_decay)),
          step.beta1,
          step.beta2,
          static_cast<float>(1 - beta1),
          static_cast<float>(1 - beta2),
          step.lr};
}

}  // namespace upcycle
