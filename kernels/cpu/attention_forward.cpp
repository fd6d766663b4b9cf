#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace attention {
namespace {

template <class T>
void attend(const RowScratch& w, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
            const Tensor& v, const Sizes& z, const Span& span, std::int64_t head, std::int64_t begin,
            std::int64_t rows) {
  const auto load = [&](float* keys, float* values, std::int64_t first, std::int64_t left) {
    const std::int64_t at = span.k_begin + first;
    load_keys(keys, k.as<T>() + at * k.row_stride + head * z.D, k.row_stride, left, z);
    load_keys(values, v.as<T>() + at * v.row_stride + head * z.D, v.row_stride, left, z);
  };
  const auto done = [&](std::int64_t p, const float* o, float total, float highest) {
    const std::int64_t at = span.q_begin + p / z.G, n = head * z.G + p % z.G;
    store_result(out.as<T>() + at * out.row_stride + n * z.D, o, total, z);
    lse.as<float>()[n * z.Tq + at] =
        total == 0.0f ? -std::numeric_limits<float>::infinity() : highest * z.scale + std::log(total);
  };
  attend_rows(w, q.as<T>() + span.q_begin * q.row_stride + head * z.G * z.D, q.row_stride, z, span.shift(), begin, rows,
              load, done);
}

std::size_t forward_workspace(std::int64_t D) {
  return static_cast<std::size_t>(omp_get_max_threads() * padded(RowScratch::floats(padded(D)))) * sizeof(float);
}

}  // namespace

}  // namespace attention

std::size_t CpuOps::attention_forward_workspace(const OpLimits& limits) {
  return limits.D == 0 ? 0 : attention::forward_workspace(limits.D);
}

void CpuOps::attention_forward(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& lse,
                               const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t D,
                               const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale) {
  using namespace attention;
  const Sizes z = check_sizes(out, lse, q, k, v, D, q_sequences, k_sequences, scale);
  const std::size_t needed = forward_workspace(D);
  check_workspace("attention_forward", workspace, needed);
  const std::int64_t heads = q_sequences.count * z.K;
  const std::int64_t longest = longest_of(q_sequences) * z.G;
  if (heads == 0 || longest == 0) return;
  const std::int64_t per_item = item_rows(heads, longest, omp_get_max_threads());
  const std::int64_t blocks = (longest + per_item - 1) / per_item;
  const std::int64_t items = blocks * heads;
#pragma omp parallel if (items > 1)
  {
    const RowScratch scratch(
        static_cast<float*>(workspace.data) + omp_get_thread_num() * padded(RowScratch::floats(z.Dp)), z.Dp);
    // Later blocks see more keys: handing them out first leaves small ones to balance the end.
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < items; ++item) {
      const std::int64_t begin = (blocks - 1 - item / heads) * per_item;
      const std::int64_t head = item % heads % z.K;
      const Span span = span_of(item % heads / z.K, q_sequences, k_sequences);
      const std::int64_t rows = std::min(per_item, span.q_rows * z.G - begin);
      if (rows <= 0) continue;
      if (q.dtype == DType::BF16) {
        attend<bf16>(scratch, out, lse, q, k, v, z, span, head, begin, rows);
      } else {
        attend<float>(scratch, out, lse, q, k, v, z, span, head, begin, rows);
      }
    }
  }
  stream.poll();
}

}  // namespace upcycle
