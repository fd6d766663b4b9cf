#include "launch/normal_operands.h"

#include "core/check.h"
#include "core/rng.h"

namespace upcycle {

NormalOperands::NormalOperands() : values_(kPeriod) {
  for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(rng::normal(1, 2, i));
}

void NormalOperands::write(Staging& staging, const Tensor& to) {
  UPCYCLE_CHECK(to.dtype == DType::F32 || to.dtype == DType::BF16, "normal operands in {}", to.describe());
  const std::int64_t first = next_;
  staging.write(to, [&](void* host, std::int64_t row, std::int64_t rows) {
    const std::int64_t n = rows * to.columns();
    std::int64_t at = (first + row * to.columns()) % kPeriod;
    for (std::int64_t i = 0; i < n; ++i, at = at + 1 == kPeriod ? 0 : at + 1) {
      const float value = values_[static_cast<std::size_t>(at)];
      if (to.dtype == DType::F32)
        static_cast<float*>(host)[i] = value;
      else
        static_cast<bf16*>(host)[i] = to_bf16(value);
    }
  });
  next_ = (first + to.size() + kPeriod / 3) % kPeriod;
}

}  // namespace upcycle
