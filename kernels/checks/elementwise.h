#pragma once
#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"

namespace upcycle {

// The rows over which to iterate: if all tensors are dense, one long row.
struct Extent {
  std::int64_t rows = 0, columns = 0;
};

// All tensors have one shape, of any types and row strides. `op` is the name in messages.
Extent check_elementwise(const char* op, std::initializer_list<const Tensor*> tensors);

Extent check_convert(const Tensor& out, const Tensor& x);
Extent check_scale(const Tensor& out, const Tensor& x);
Extent check_add(const Tensor& out, const Tensor& a, const Tensor& b);

}  // namespace upcycle
