#include <omp.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/paged_attention.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace attention {
namespace {

// One sequence: its query rows and, of each page, the number.
struct Paged {
  std::int64_t q_begin, q_rows, keys;
  const std::int32_t* pages;
};
Paged paged_of(const PagedSequences& sequences, std::int64_t i) {
  const std::int32_t* offsets = sequences.offsets.as<std::int32_t>() + i;
  return {offsets[0], offsets[1] - offsets[0], sequences.lengths.as<std::int32_t>()[i],
          sequences.pages.as<std::int32_t>() + i * sequences.pages.row_stride};
}

// What a device could not see: the rows and pages of each sequence.
void check_sequences(const PagedSequences& sequences, const PagedSizes& p) {
  UPCYCLE_CHECK(sequences.offsets.as<std::int32_t>()[0] == 0, "paged_attention: the first sequence begins at row {}",
                sequences.offsets.as<std::int32_t>()[0]);
  for (std::int64_t i = 0; i < sequences.count; ++i) {
    const Paged s = paged_of(sequences, i);
    UPCYCLE_CHECK(s.q_rows >= 0 && s.q_begin + s.q_rows <= p.rows.Tq && s.q_rows <= sequences.most_rows,
                  "paged_attention: sequence {} has rows [{}, {}) of {}, at most {} are announced", i, s.q_begin,
                  s.q_begin + s.q_rows, p.rows.Tq, sequences.most_rows);
    UPCYCLE_CHECK(s.keys >= s.q_rows && s.keys <= sequences.most_keys,
                  "paged_attention: sequence {} has {} rows and {} keys, at most {} are announced", i, s.q_rows, s.keys,
                  sequences.most_keys);
    check_indices("paged_attention: pages", s.pages, (s.keys + p.P - 1) / p.P, 0, p.pages);
  }
}

// Loads a tile of keys or values from its pages, in load_keys' form.
template <class T>
void load_pages(float* to, const T* cache, std::int64_t head, const std::int32_t* pages, std::int64_t left,
                const PagedSizes& p) {
  const Sizes& z = p.rows;
  const std::int64_t rows = std::min<std::int64_t>(kKeys, left), head_size = p.P * z.D;
  const auto at = [&](std::int64_t page) { return cache + (pages[page] * z.K + head) * head_size; };
  constexpr std::int64_t kCacheLine = 64 / sizeof(T);
  for (std::int64_t first = 0; first < rows; first += p.P) {
    const std::int64_t here = std::min(p.P, rows - first), next = first + kKeys;
    const T* from = at(first / p.P);
    const T* ahead = next < left ? at(next / p.P) : from;  // the same page of the next tile
    for (std::int64_t j = 0; j < here; ++j) {
      for (std::int64_t d = 0; d < z.D && next + j < left; d += kCacheLine)
        __builtin_prefetch(ahead + j * z.D + d, 0, 2);
      load_row(to + (first + j) * z.Dp, from + j * z.D, z);
    }
  }
  std::memset(to + rows * z.Dp, 0, static_cast<std::size_t>((kKeys - rows) * z.Dp) * sizeof(float));
}

template <class T>
void attend(const RowScratch& w, const Tensor& out, const Tensor& q, const PagedCache& cache, const PagedSizes& p,
            const Paged& s, std::int64_t head, std::int64_t begin, std::int64_t rows) {
  const Sizes& z = p.rows;
  const auto load = [&](float* keys, float* values, std::int64_t first, std::int64_t left) {
    load_pages(keys, cache.k.as<T>(), head, s.pages + first / p.P, left, p);
    load_pages(values, cache.v.as<T>(), head, s.pages + first / p.P, left, p);
  };
  const auto done = [&](std::int64_t row, const float* o, float total, float) {
    const std::int64_t at = s.q_begin + row / z.G, n = head * z.G + row % z.G;
    store_result(out.as<T>() + at * out.row_stride + n * z.D, o, total, z);
  };
  attend_rows(w, q.as<T>() + s.q_begin * q.row_stride + head * z.G * z.D, q.row_stride, z, s.keys - s.q_rows, begin,
              rows, load, done);
}

std::size_t paged_workspace(std::int64_t D) {
  return static_cast<std::size_t>(omp_get_max_threads() * padded(RowScratch::floats(padded(D)))) * sizeof(float);
}

}  // namespace
}  // namespace attention

std::size_t CpuOps::paged_attention_workspace(const OpLimits& limits) {
  return limits.D == 0 || limits.sequences == 0 ? 0 : attention::paged_workspace(limits.D);
}

void CpuOps::paged_attention(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& q,
                             const PagedCache& cache, const PagedSequences& sequences) {
  using namespace attention;
  const PagedSizes p = check_paged_attention(out, q, cache, sequences);
  check_sequences(sequences, p);
  check_workspace("paged_attention", workspace, paged_workspace(p.rows.D));
  const std::size_t element = size_of(out.dtype);
  for (std::int64_t row = sequences.offsets.as<std::int32_t>()[sequences.count]; row < p.rows.Tq; ++row) {
    std::memset(static_cast<char*>(out.data) + static_cast<std::size_t>(row * out.row_stride) * element, 0,
                static_cast<std::size_t>(out.columns()) * element);
  }
  const std::int64_t heads = sequences.count * p.rows.K, most = sequences.most_rows * p.rows.G;
  if (heads == 0 || most == 0) return;
  const std::int64_t per_item = item_rows(heads, most, omp_get_max_threads());
  const std::int64_t blocks = (most + per_item - 1) / per_item, items = blocks * heads;
#pragma omp parallel if (items > 1)
  {
    float* const mine =
        static_cast<float*>(workspace.data) + omp_get_thread_num() * padded(RowScratch::floats(p.rows.Dp));
    const RowScratch scratch(mine, p.rows.Dp);
    // Later blocks see more keys: handing them out first leaves small ones to balance the end.
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < items; ++item) {
      const std::int64_t begin = (blocks - 1 - item / heads) * per_item, head = item % heads % p.rows.K;
      const Paged s = paged_of(sequences, item % heads / p.rows.K);
      const std::int64_t rows = std::min(per_item, s.q_rows * p.rows.G - begin);
      if (rows <= 0) continue;
      if (q.dtype == DType::BF16) {
        attend<bf16>(scratch, out, q, cache, p, s, head, begin, rows);
      } else {
        attend<float>(scratch, out, q, cache, p, s, head, begin, rows);
      }
    }
  }
  stream.poll();
}

}  // namespace upcycle
