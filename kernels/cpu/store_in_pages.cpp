#include <cstring>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/paged_attention.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {

void CpuOps::store_in_pages(Stream&, const PagedCache& cache, const Tensor& k, const Tensor& v, const Tensor& slots) {
  const StoreSizes z = check_store_in_pages(cache, k, v, slots);
  const std::int32_t* slot = slots.as<std::int32_t>();
  check_indices("store_in_pages: slots", slot, z.T, -1, z.pages * z.P);
  const std::int64_t element = static_cast<std::int64_t>(size_of(k.dtype)), head_bytes = z.D * element;
#pragma omp parallel for schedule(static) if (z.T * z.K * head_bytes > 65536)
  for (std::int64_t t = 0; t < z.T; ++t) {
    if (slot[t] < 0) continue;
    const std::int64_t page = slot[t] / z.P, row = slot[t] % z.P;
    for (const auto& [to, from] : {std::pair{&cache.k, &k}, std::pair{&cache.v, &v}}) {
      const char* x = static_cast<const char*>(from->data) + t * from->row_stride * element;
      char* y = static_cast<char*>(to->data) + (page * z.K * z.P + row) * head_bytes;
      for (std::int64_t h = 0; h < z.K; ++h)
        std::memcpy(y + h * z.P * head_bytes, x + h * head_bytes, static_cast<std::size_t>(head_bytes));
    }
  }
}

}  // namespace upcycle
