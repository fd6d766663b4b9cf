#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct HeadSizes {
  std::int64_t T, heads, D;
};

HeadSizes check_head_dots(const Tensor& dots, const Tensor& a, const Tensor& b, const Tensor& weight);
HeadSizes check_head_norm_forward(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& squares,
                                  std::int64_t width);
HeadSizes check_head_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
                                   const Tensor& weight, const Tensor& squares, const Tensor& dots, std::int64_t width);

}  // namespace upcycle
