#pragma once
#include <cstdint>

#include "core/tensor.h"
#include "kernels/op_types.h"

namespace upcycle {

// Each returns the number of elements.
std::int64_t check_sum_squares(const Tensor& out, const Tensor& x);
std::int64_t check_adamw(const UpdateTensors& t, const Tensor& scale, const AdamwStep& step);
std::int64_t check_lion(const UpdateTensors& t, const Tensor& scale, const LionStep& step);
std::int64_t check_sgd(const UpdateTensors& t, const Tensor& scale);

void check_clip_scale(const Tensor& scale, const Tensor& sum_squares);

}  // namespace upcycle
