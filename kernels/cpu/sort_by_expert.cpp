#include <omp.h>

#include <algorithm>

#include "core/check.h"
#include "kernels/check.h"
#include "kernels/checks/expert_rows.h"
#include "kernels/cpu/cpu_ops.h"

// A counting sort in three passes: each part of the assignments is counted per expert; a prefix sum over experts, then
// parts, turns the counts into first places (this order makes it stable); each part is placed. A stable order is
// unique, so the result does not depend on the number of parts.
namespace upcycle {
namespace {

constexpr std::int64_t kMostParts = 64;
constexpr std::int64_t kPartFrom = 8192;  // assignments that are worth a thread

}  // namespace

std::size_t CpuOps::sort_by_expert_workspace(const OpLimits& limits) {
  return static_cast<std::size_t>(kMostParts * limits.E) * sizeof(std::int32_t);
}

void CpuOps::sort_by_expert(Stream&, Workspace workspace, const Tensor& counts, const Tensor& source,
                            const Tensor& slot, const Tensor& experts, std::int64_t align) {
  const SortSizes z = check_sort_by_expert(counts, source, slot, experts, align);
  const std::int64_t E = z.E, k = z.k, R = z.R, n = z.T * k;
  const std::int32_t* expert = experts.as<std::int32_t>();
  check_indices("sort_by_expert: experts", expert, n, -1, E);

  const std::int64_t parts =
      std::clamp<std::int64_t>(n / kPartFrom, 1, std::min<std::int64_t>(kMostParts, omp_get_max_threads()));
  const std::size_t needed = static_cast<std::size_t>(parts * E) * sizeof(std::int32_t);
  check_workspace("sort_by_expert", workspace, needed);
  std::int32_t* const place = static_cast<std::int32_t*>(workspace.data);  // (parts, E)
  std::fill(place, place + parts * E, 0);

#pragma omp parallel for schedule(static) if (parts > 1)
  for (std::int64_t part = 0; part < parts; ++part)
    for (std::int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i)
      if (expert[i] >= 0) ++place[part * E + expert[i]];

  std::int32_t* const count = counts.as<std::int32_t>();
  std::int64_t next = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    next = (next + align - 1) / align * align;
    const std::int64_t first = next;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int32_t here = place[part * E + e];
      place[part * E + e] = static_cast<std::int32_t>(next);
      next += here;
    }
    count[e] = static_cast<std::int32_t>(next - first);
  }
  next = (next + align - 1) / align * align;
  UPCYCLE_CHECK(next <= R, "sort_by_expert: {} rows needed, source has {}", next, R);

  std::int32_t *const token = source.as<std::int32_t>(), *const row = slot.as<std::int32_t>();
  std::fill(token, token + R, -1);  // padding and unused rows at the end
#pragma omp parallel for schedule(static) if (parts > 1)
  for (std::int64_t part = 0; part < parts; ++part)
    for (std::int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i) {
      row[i] = -1;
      if (expert[i] < 0) continue;
      const std::int32_t at = place[part * E + expert[i]]++;
      token[at] = static_cast<std::int32_t>(i / k);
      row[i] = at;
    }
}

}  // namespace upcycle
