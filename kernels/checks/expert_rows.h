#pragma once
#include <cstdint>

#include "core/tensor.h"

// For the ops that move rows to and from experts. The contents of index tensors are checked only by the CPU's ops,
// since the host can not read them on other devices.
namespace upcycle {

struct SortSizes {
  std::int64_t T, E, k, R;
};
SortSizes check_sort_by_expert(const Tensor& counts, const Tensor& source, const Tensor& slot, const Tensor& experts,
                               std::int64_t align);

struct GatherSizes {
  std::int64_t R, H;
};
GatherSizes check_gather_rows(const Tensor& out, const Tensor& x, const Tensor& source);

struct CombineSizes {
  std::int64_t T, R, H, k;
};
CombineSizes check_combine_rows(const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights);
CombineSizes check_combine_rows_backward(const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                                         const Tensor& rows, const Tensor& slot, const Tensor& weights);

}  // namespace upcycle
