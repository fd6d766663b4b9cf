#pragma once
#include <cmath>

#include "kernels/op_types.h"

namespace upcycle {

// One step's factors, the same for all elements and devices.
struct AdamwFactors {
  float decay;                       // 1 - lr * weight_decay
  float beta1, beta2, rest1, rest2;  // rest = 1 - beta
  float rate;                        // lr / (1 - beta1^t)
  float root;                        // 1 / sqrt(1 - beta2^t)
  float eps;
};

// Computed in fp64: in fp32, 1 - 0.999^1 has three correct digits.
inline AdamwFactors factors_of(const AdamwStep& step) {
  const double beta1 = static_cast<double>(step.beta1), beta2 = static_cast<double>(step.beta2);
  const double t = static_cast<double>(step.step), lr = static_cast<double>(step.lr);
  return {static_cast<float>(1 - lr * static_cast<double>(step.weight_decay)),
          step.beta1,
          step.beta2,
          static_cast<float>(1 - beta1),
          static_cast<float>(1 - beta2),
          static_cast<float>(lr / (1 - std::pow(beta1, t))),
          static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t))),
          step.eps};
}

}  // namespace upcycle
