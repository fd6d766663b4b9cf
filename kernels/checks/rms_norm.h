#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct RmsNormSizes {
  std::int64_t T, H;
};

RmsNormSizes check_rms_norm_forward(const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                                    const Tensor& delta, const Tensor& weight);
RmsNormSizes check_rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
                                     const Tensor& weight, const Tensor& rstd);

}  // namespace upcycle
