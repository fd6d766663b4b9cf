#include <bit>

#include "kernels/checks/paged_attention.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

template <class Unit>
struct Source {
  const Unit* data;
  std::int64_t stride;
};

// Keys and values are copied as bits, one Unit of each per thread. K heads of D units; 2^log_p rows in a page.
template <class Unit>
__global__ void store(RowGrid grid, Unit* keys, Unit* values, Source<Unit> k, Source<Unit> v, const int* slots, int end,
                      int K, int D, int log_p) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const int slot = slots[at.row];
  if (slot < 0 || slot >= end) return;
  const int head = static_cast<int>(at.group) / D, d = static_cast<int>(at.group) % D;
  const std::int64_t row = ((std::int64_t{slot >> log_p} * K + head) << log_p) + (slot & ((1 << log_p) - 1));
  const Unit key = k.data[at.row * k.stride + at.group], value = v.data[at.row * v.stride + at.group];
  keys[row * D + d] = key;
  values[row * D + d] = value;
}

template <class Unit>
void launch_store(Stream& stream, const PagedCache& cache, const Tensor& k, const Tensor& v, const Tensor& slots,
                  const StoreSizes& z) {
  const auto units = [&](std::int64_t elements) {
    return elements * static_cast<std::int64_t>(size_of(k.dtype)) / static_cast<std::int64_t>(sizeof(Unit));
  };
  const auto source = [&](const Tensor& t) {
    return Source<Unit>{static_cast<const Unit*>(t.data), units(t.row_stride)};
  };
  launch_rows("store_in_pages", stream, z.T, units(z.K * z.D), store<Unit>, static_cast<Unit*>(cache.k.data),
              static_cast<Unit*>(cache.v.data), source(k), source(v), slots.as<std::int32_t>(),
              static_cast<int>(z.pages * z.P), static_cast<int>(z.K), static_cast<int>(units(z.D)),
              std::countr_zero(static_cast<unsigned>(z.P)));
}

}  // namespace

void CudaOps::store_in_pages(Stream& stream, const PagedCache& cache, const Tensor& k, const Tensor& v,
                             const Tensor& slots) {
  const StoreSizes z = check_store_in_pages(cache, k, v, slots);
  const bool whole_heads = z.D * static_cast<std::int64_t>(size_of(k.dtype)) % 16 == 0;
  if (whole_heads && whole_vectors(k) && whole_vectors(v) && whole_vectors(cache.k) && whole_vectors(cache.v)) {
    launch_store<uint4>(stream, cache, k, v, slots, z);
  } else if (k.dtype == DType::F32) {
    launch_store<unsigned>(stream, cache, k, v, slots, z);
  } else {
    launch_store<unsigned short>(stream, cache, k, v, slots, z);
  }
}

}  // namespace upcycle
