#pragma once
#include <cstdint>
#include <vector>

#include "core/staging.h"

namespace upcycle {

// Standard normal operands for measurements. Zeros and constants switch fewer transistors: on a power-limited GPU they
// run faster than a model's numbers (on an H200 zeros by 13 %).
class NormalOperands {
 public:
  NormalOperands();
  // Writes `to` (fp32 or bf16). The values repeat after kPeriod; each call starts at a different offset, so that
  // tensors differ.
  void write(Staging& staging, const Tensor& to);

  static constexpr std::int64_t kPeriod = 1'048'573;  // a prime, so that rows of usual lengths do not repeat

 private:
  std::vector<float> values_;
  std::int64_t next_ = 0;
};

}  // namespace upcycle
