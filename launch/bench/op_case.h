#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace upcycle {

// One op that `bench ops` times.
struct OpCase {
  std::string name;
  double flops;
  std::vector<const Tensor*> touched;  // each read or written once
  std::function<void()> run;
  double other_bytes = 0;  // read or written besides
};

inline double product_flops(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

}  // namespace upcycle
