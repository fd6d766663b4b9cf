#include <omp.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/paged_attention.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/decode_row.h"

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

// Where a head's rows of a page begin.
template <class T>
const T* page_rows(const Tensor& cache, const PagedSizes& p, std::int64_t page, std::int64_t head) {
  return cache.as<T>() + (page * p.rows.K + head) * p.P * p.rows.D;
}

// Loads a tile of keys or values from its pages, in load_keys' form.
template <class T>
void load_pages(float* to, const Tensor& cache, std::int64_t head, const std::int32_t* pages, std::int64_t left,
                const PagedSizes& p) {
  const Sizes& z = p.rows;
  const std::int64_t rows = std::min<std::int64_t>(kKeys, left);
  const auto at = [&](std::int64_t page) { return page_rows<T>(cache, p, pages[page], head); };
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

// The rows of a tile, where they lie.
template <class T>
void find_rows(TileRows<T>& rows, const Tensor& cache, std::int64_t head, const std::int32_t* pages, int n,
               const PagedSizes& p) {
  const int P = static_cast<int>(p.P);
  for (int first = 0; first < n; first += P) {
    const T* at = page_rows<T>(cache, p, pages[first / P], head);
    for (int j = 0; j < P; ++j) rows.at[first + j] = at + j * p.rows.D;
  }
  for (int j = n; j < kKeys; ++j) rows.at[j] = rows.at[n - 1];
}

constexpr std::int64_t kParallelFrom = 1 << 19;  // multiply-adds; below, waking threads costs more than the work

std::int64_t ranges_of(std::int64_t keys) { return (keys + kRangeKeys - 1) / kRangeKeys; }

struct Call {
  const Tensor &out, &q;
  const PagedCache& cache;
  const PagedSequences& sequences;
  const PagedSizes& p;
  const Sizes& z = p.rows;

  // What threads have to themselves, and behind it what ranges of keys give, by sequence, head and range.
  float* scratch;
  std::int64_t ranges = 1;  // of a sequence that decodes, if they are given to different threads

  static std::int64_t thread_floats(const Sizes& z) {
    return padded(std::max(RowScratch::floats(z.Dp), decodes(z) ? DecodeScratch::floats(z) : 0));
  }
  float* of_thread() const { return scratch + omp_get_thread_num() * thread_floats(z); }
  Partial partial(std::int64_t item) const {
    return {scratch + omp_get_max_threads() * thread_floats(z) + item * Partial::floats(z), z};
  }

  template <class T>
  const T* queries(const Paged& s, std::int64_t head) const {
    return q.as<T>() + s.q_begin * q.row_stride + head * z.G * z.D;
  }
  template <class T>
  void store(const Paged& s, std::int64_t head, std::int64_t row, const float* o, float total) const {
    const std::int64_t at = s.q_begin + row / z.G, n = head * z.G + row % z.G;
    store_result(out.as<T>() + at * out.row_stride + n * z.D, o, total, z);
  }
  template <class T>
  void store(const Paged& s, std::int64_t head, const Partial& all) const {
    for (std::int64_t i = 0; i < z.G; ++i) store<T>(s, head, i, all.o + i * z.Dp, total_of(all.sum + i * kLanes));
  }

  // Packed rows [begin, begin + rows) of a prompt.
  template <class T>
  void attend(const Paged& s, std::int64_t head, std::int64_t begin, std::int64_t rows) const {
    const auto load = [&](float* keys, float* values, std::int64_t first, std::int64_t left) {
      load_pages<T>(keys, cache.k, head, s.pages + first / p.P, left, p);
      load_pages<T>(values, cache.v, head, s.pages + first / p.P, left, p);
    };
    const auto done = [&](std::int64_t row, const float* o, float total, float) { store<T>(s, head, row, o, total); };
    attend_rows(RowScratch(of_thread(), z.Dp), queries<T>(s, head), q.row_stride, z, s.keys - s.q_rows, begin, rows,
                load, done);
  }

  // Starts to fetch the first tile of an item that decodes: within an item each tile fetches the next one.
  template <class T>
  void fetch_first_tile(const Paged& s, std::int64_t head) const {
    const int n = static_cast<int>(std::min<std::int64_t>(kKeys, s.keys));
    if (n == 0) return;
    for (const Tensor* t : {&cache.k, &cache.v}) {
      TileRows<T> rows;
      find_rows(rows, *t, head, s.pages, n, p);
      for (int j = 0; j < n; ++j)
        for (std::int64_t d = 0; d < z.D; d += static_cast<std::int64_t>(64 / sizeof(T)))
          __builtin_prefetch(rows.at[j] + d, 0, 2);
    }
  }

  // The one row of a sequence that decodes: one range of its keys, or all of them.
  template <class T>
  void decode(const Paged& s, std::int64_t head, std::int64_t item, std::int64_t range) const {
    const DecodeScratch w(of_thread(), z);
    const auto find = [&](TileRows<T>& keys, TileRows<T>& values, std::int64_t first, int n) {
      find_rows(keys, cache.k, head, s.pages + first / p.P, n, p);
      find_rows(values, cache.v, head, s.pages + first / p.P, n, p);
    };
    const auto attend_to = [&](const Partial& to, std::int64_t r) {
      attend_range<T>(to, w, z, r * kRangeKeys, std::min(s.keys, (r + 1) * kRangeKeys), find);
    };
    load_queries(w.q, queries<T>(s, head), q.row_stride, 0, z.G, z);
    if (ranges > 1) {
      attend_to(partial(item * ranges + range), range);
      return;
    }
    attend_to(w.all, 0);
    for (std::int64_t r = 1; r * kRangeKeys < s.keys; ++r) {
      attend_to(w.range, r);
      join(w.all, w.range, z);
    }
    store<T>(s, head, w.all);
  }
  template <class T>
  void join_ranges(const Paged& s, std::int64_t head, std::int64_t item) const {
    const Partial all = partial(item * ranges);
    for (std::int64_t r = 1; r * kRangeKeys < s.keys; ++r) join(all, partial(item * ranges + r), z);
    store<T>(s, head, all);
  }

  bool decoded(const Paged& s) const { return decodes(z) && s.q_rows == 1; }
  // Sums units(sequence), or finds the sequence that has the i-th of all units, and which of its own that is.
  template <class Units>
  std::int64_t total(const Units& units) const {
    std::int64_t sum = 0;
    for (std::int64_t n = 0; n < sequences.count; ++n) sum += units(paged_of(sequences, n));
    return sum;
  }
  struct Place {
    std::int64_t sequence, unit;
  };
  template <class Units>
  Place find(const Units& units, std::int64_t i) const {
    std::int64_t n = 0;
    for (std::int64_t here = 0; i >= (here = units(paged_of(sequences, n))); ++n) i -= here;
    return {n, i};
  }

  template <class T>
  void run() const {
    const std::int64_t prompts = total([&](const Paged& s) { return decoded(s) ? 0 : 1; });
    const std::int64_t per_item = item_rows(prompts * z.K, sequences.most_rows * z.G, omp_get_max_threads());
    const auto blocks_of = [&](const Paged& s) { return decoded(s) ? 0 : (s.q_rows * z.G + per_item - 1) / per_item; };
    const auto parts_of = [&](const Paged& s) { return !decoded(s) ? 0 : ranges > 1 ? ranges_of(s.keys) : 1; };
    const std::int64_t blocks = total(blocks_of) * z.K, items = blocks + total(parts_of) * z.K;
    const bool parallel =
        items > 1 && total([](const Paged& s) { return s.q_rows * s.keys; }) * z.N * z.D >= kParallelFrom;
    // Prompts first, of each the later blocks, which see more keys: so small items are left to balance the end.
    // Where all decode, a thread takes several heads in a row, so that the next one is mostly its own.
    const std::int64_t run = blocks > 0 ? 1 : std::clamp<std::int64_t>(items / (8 * omp_get_max_threads()), 1, 8);
#pragma omp parallel for schedule(dynamic, run) if (parallel)
    for (std::int64_t i = 0; i < items; ++i) {
      if (i < blocks) {
        const Place at = find(blocks_of, i / z.K);
        const Paged s = paged_of(sequences, at.sequence);
        const std::int64_t begin = (blocks_of(s) - 1 - at.unit) * per_item;
        attend<T>(s, i % z.K, begin, std::min(per_item, s.q_rows * z.G - begin));
      } else {
        const Place at = find(parts_of, (i - blocks) / z.K);
        const std::int64_t head = (i - blocks) % z.K;
        if (ranges == 1 && i + 1 < items)
          fetch_first_tile<T>(paged_of(sequences, find(parts_of, (i + 1 - blocks) / z.K).sequence),
                              (i + 1 - blocks) % z.K);
        decode<T>(paged_of(sequences, at.sequence), head, at.sequence * z.K + head, at.unit);
      }
    }
    if (ranges == 1) return;
#pragma omp parallel for schedule(static) if (parallel)
    for (std::int64_t item = 0; item < sequences.count * z.K; ++item) {
      const Paged s = paged_of(sequences, item / z.K);
      if (decoded(s)) join_ranges<T>(s, item % z.K, item);
    }
  }
};

// Ranges of keys go to different threads where sequences and heads are too few to keep all of them busy.
bool splits(std::int64_t heads) { return heads < 2 * omp_get_max_threads(); }
// For up to `heads` sequences times heads.
std::size_t paged_workspace(const Sizes& z, std::int64_t heads, std::int64_t keys) {
  std::int64_t floats = omp_get_max_threads() * Call::thread_floats(z);
  if (decodes(z) && ranges_of(keys) > 1) {
    const std::int64_t most = std::min<std::int64_t>(heads, 2 * omp_get_max_threads() - 1);
    floats += most * ranges_of(keys) * Partial::floats(z);
  }
  return static_cast<std::size_t>(floats) * sizeof(float);
}

}  // namespace
}  // namespace attention

std::size_t CpuOps::paged_attention_workspace(const OpLimits& limits) {
  if (limits.D == 0 || limits.K == 0 || limits.sequences == 0) return 0;
  attention::Sizes z{};
  z.G = limits.N / limits.K;
  z.D = limits.D;
  z.Dp = attention::padded(z.D);
  return attention::paged_workspace(z, limits.sequences * limits.K, limits.keys);
}

void CpuOps::paged_attention(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& q,
                             const PagedCache& cache, const PagedSequences& sequences, float scale) {
  using namespace attention;
  const PagedSizes p = check_paged_attention(out, q, cache, sequences, scale);
  check_sequences(sequences, p);
  const std::int64_t heads = sequences.count * p.rows.K;
  check_workspace("paged_attention", workspace, paged_workspace(p.rows, heads, sequences.most_keys));
  const std::size_t element = size_of(out.dtype);
  for (std::int64_t row = sequences.offsets.as<std::int32_t>()[sequences.count]; row < p.rows.Tq; ++row) {
    std::memset(static_cast<char*>(out.data) + static_cast<std::size_t>(row * out.row_stride) * element, 0,
                static_cast<std::size_t>(out.columns()) * element);
  }
  if (heads == 0 || sequences.most_rows == 0) return;
  Call call{out, q, cache, sequences, p, p.rows, static_cast<float*>(workspace.data)};
  if (decodes(p.rows) && splits(heads)) call.ranges = ranges_of(sequences.most_keys);
  if (q.dtype == DType::BF16) {
    call.run<bf16>();
  } else {
    call.run<float>();
  }
  stream.poll();
}

}  // namespace upcycle
