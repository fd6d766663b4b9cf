#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

// ---- sort_by_expert ------------------------------------------------------------------------------------------------

struct SortTest : OpTest {
  // experts (T, k) drawn below `live` of E.
  HostTensor draw(std::int64_t T, std::int64_t k, std::int64_t live) {
    HostTensor experts(DType::I32, {T, k});
    for (std::int64_t i = 0; i < T * k; ++i)
      set(experts, i,
          static_cast<double>(rng::below(static_cast<std::uint64_t>(live), 3, 1, static_cast<std::uint64_t>(i))));
    return experts;
  }
  struct Sorted {
    HostTensor counts, source, slot;
  };
  // `spare`: rows of the buffer past what the segments need.
  Sorted sort(const HostTensor& experts, std::int64_t E, std::int64_t align, std::int64_t spare = 0) {
    const std::int64_t T = experts.shape[0], k = experts.shape[1];
    Sorted s{{DType::I32, {E}}, {DType::I32, {T * k + E * (align - 1) + spare}}, {DType::I32, {T, k}}};
    OpLimits limits;
    limits.E = E;
    testing::Bytes scratch(ops->workspace_bytes(limits), std::byte{0x5a});
    ops->sort_by_expert(*stream, {scratch.data(), scratch.size()}, s.counts, s.source, s.slot, experts, align);
    return s;
  }
  // Against std::stable_sort laid out by hand: segments at multiples of align, -1 between and behind them.
  void check(const HostTensor& experts, std::int64_t E) {
    for (const std::int64_t align : {1, 4, 16}) {
      const Sorted s = sort(experts, E, align, 3);
      const std::int64_t n = experts.size(), k = experts.shape[1];
      std::vector<std::int64_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int64_t a, std::int64_t b) { return experts.get(a) < experts.get(b); });
      std::vector<double> counts(static_cast<std::size_t>(E)), source(static_cast<std::size_t>(s.source.size()), -1);
      std::int64_t row = 0, expert = 0;
      for (const std::int64_t assignment : order) {
        for (; expert < static_cast<std::int64_t>(experts.get(assignment)); ++expert)
          row = (row + align - 1) / align * align;
        counts[static_cast<std::size_t>(expert)] += 1;
        source[static_cast<std::size_t>(row)] = static_cast<double>(assignment / k);
        ASSERT_EQ(s.slot.get(assignment), row);
        ++row;
      }
      EXPECT_EQ(s.counts.values(), counts);
      EXPECT_EQ(s.source.values(), source);
    }
  }
};

TEST_F(SortTest, IsTheStableSort) {
  check(draw(1, 1, 1), 1);
  check(draw(1, 2, 8), 8);
  check(draw(17, 3, 5), 5);
  check(draw(300, 2, 8), 64);  // experts from 8 on are empty
  check(draw(300, 2, 1), 4);   // all to one
  check(draw(9001, 4, 60), 60);
  check(draw(700, 3, 300), 300);
}

TEST_F(SortTest, NoTokensCountZero) {
  const Sorted s = sort(HostTensor(DType::I32, {0, 2}), 5, 16);
  EXPECT_EQ(s.counts.values(), std::vector<double>(5, 0.0));
}

TEST_F(SortTest, ThreadsDoNotShow) {
  const HostTensor experts = draw(20001, 3, 11);
  for (const int threads : {1, 2, 5}) {
    const ThreadCount count(threads);
    check(experts, 16);
  }
}

TEST_F(SortTest, SmallScratchAndSourceThrow) {
  const HostTensor good = draw(4, 2, 4);
  HostTensor counts(DType::I32, {4}), source(DType::I32, {8}), slot(DType::I32, {4, 2});
  EXPECT_THROW(ops->sort_by_expert(*stream, {}, counts, source, slot, good, 1), Error);
  testing::Bytes scratch(4096);
  HostTensor short_source(DType::I32, {7});
  EXPECT_THROW(ops->sort_by_expert(*stream, {scratch.data(), scratch.size()}, counts, short_source, slot, good, 1),
               Error);
}

// The host throws for what it can read; a device writes nothing out of bounds and says so in slot.
TEST_F(SortTest, AnAssignmentToNoExpertHasNoRow) {
  HostTensor experts = draw(9, 2, 4);
  for (const std::int64_t i : {4, 5, 17}) set(experts, i, -1);
  const Sorted s = sort(experts, 4, 1);
  const auto counts = s.counts.values();
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0.0), 15);
  for (std::int64_t i = 0; i < 18; ++i) {
    const bool none = i == 4 || i == 5 || i == 17;
    EXPECT_EQ(s.slot.get(i) < 0, none) << i;
    if (!none) {
      EXPECT_EQ(s.source.get(static_cast<std::int64_t>(s.slot.get(i))), static_cast<double>(i / 2)) << i;
    }
  }
}

TEST_F(SortTest, ExpertsOutOfRangeAndRowsPastTheEndAreCaught) {
  const bool host = device->kind() == DeviceKind::Cpu;
  for (const int wrong : {4, -2}) {
    HostTensor experts = draw(4, 2, 4);
    set(experts, 5, wrong);
    if (host) {
      EXPECT_THROW(sort(experts, 4, 1), Error);
      continue;
    }
    const Sorted s = sort(experts, 4, 1);
    EXPECT_EQ(s.slot.get(5), -1);
    const auto counts = s.counts.values();
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0.0), 7);
  }
  // Four experts with rows each: the last segment, too, is whole.
  HostTensor experts(DType::I32, {4, 2}), counts(DType::I32, {4}), slot(DType::I32, {4, 2});
  for (std::int64_t i = 0; i < 8; ++i) set(experts, i, static_cast<double>(i % 4));
  const HostTensor all(DType::I32, {64});
  testing::Bytes scratch(4096);
  for (const std::int64_t rows : {63, 49}) {
    const Tensor source = all.slice_rows(0, rows);
    set(all, rows, 77);
    const auto sort_into = [&] {
      ops->sort_by_expert(*stream, {scratch.data(), scratch.size()}, counts, source, slot, experts, 16);
    };
    if (host) {
      EXPECT_THROW(sort_into(), Error);
      continue;
    }
    sort_into();
    EXPECT_EQ(all.get(rows), 77);
    EXPECT_EQ(slot.get(3), 48);
    EXPECT_EQ(slot.get(7), rows == 63 ? 49 : -1);
  }
}

// ---- gather_rows, combine_rows ------------------------------------------------------------------------------------

struct RowsTest : OpTest {};

TEST_F(RowsTest, GatherCopiesAndZeroes) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const HostTensor all = random_tensor(dtype, {12, 40}, "x");
    const Tensor x = all.slice_rows(7, 12).slice_columns(3, 36);  // strided rows, others before them
    HostTensor source(DType::I32, {6}), out(dtype, {6, 33});
    const int from[6] = {4, -1, 0, 0, -7, 2};
    for (int r = 0; r < 6; ++r) set(source, r, from[r]);
    for (std::int64_t i = 0; i < out.size(); ++i) set(out, i, 9);
    ops->gather_rows(*stream, out, x, source);
    for (std::int64_t r = 0; r < 6; ++r)
      for (std::int64_t h = 0; h < 33; ++h)
        EXPECT_EQ(out.get(r * 33 + h), from[r] < 0 ? 0.0 : all.get((7 + from[r]) * 40 + 3 + h));
  }
}

TEST_F(RowsTest, GatherOfNothing) {
  const HostTensor x = random_tensor(DType::F32, {3, 4}, "x");
  ops->gather_rows(*stream, HostTensor(DType::F32, {0, 4}), x, HostTensor(DType::I32, {0}));
  HostTensor source(DType::I32, {2}), out = random_tensor(DType::F32, {2, 4}, "y");
  set(source, 0, -1);
  set(source, 1, -1);
  ops->gather_rows(*stream, out, HostTensor(DType::F32, {0, 4}), source);
  EXPECT_EQ(out.values(), std::vector<double>(8, 0.0));
}

TEST_F(RowsTest, GatherPastTheEndThrows) {
  HostTensor source(DType::I32, {2}), out(DType::F32, {2, 4});
  set(source, 1, 3);
  if (device->kind() == DeviceKind::Cpu) {  // only the host can throw for what it reads
    EXPECT_THROW(ops->gather_rows(*stream, out, HostTensor(DType::F32, {3, 4}), source), Error);
  }
  set(source, 1, 2);
  EXPECT_THROW(ops->gather_rows(*stream, out, HostTensor(DType::BF16, {3, 4}), source), Error);
  EXPECT_THROW(ops->gather_rows(*stream, out, HostTensor(DType::F32, {3, 5}), source), Error);
}

// T tokens, k slots each, every row named at most once (a permutation), some slots -1, some rows not named.
struct Combine {
  std::int64_t T, H, k, R;
  HostTensor rows, slot, weights;
  Combine(std::int64_t T_, std::int64_t H_, std::int64_t k_, DType dtype, std::string_view name = "rows")
      : T(T_),
        H(H_),
        k(k_),
        R(T * k + 3),
        rows(random_tensor(dtype, {R, H}, name)),
        slot(DType::I32, {T, k}),
        weights(random_tensor(DType::F32, {T, k}, "weights")) {
    std::vector<std::pair<std::uint64_t, std::int64_t>> shuffled;
    for (std::int64_t r = 0; r < R; ++r)
      shuffled.emplace_back(rng::below(1u << 30, 1, 2, static_cast<std::uint64_t>(r)), r);
    std::sort(shuffled.begin(), shuffled.end());
    for (std::int64_t i = 0; i < T * k; ++i)
      set(slot, i, i % 5 == 3 ? -1 : static_cast<double>(shuffled[static_cast<std::size_t>(i)].second));
  }
  // sum over j of w * rows[slot], fp64
  std::vector<double> sums(bool weighted) const {
    std::vector<double> out(static_cast<std::size_t>(T * H));
    for (std::int64_t i = 0; i < T * k; ++i)
      for (std::int64_t h = 0; h < H && slot.get(i) >= 0; ++h)
        out[static_cast<std::size_t>(i / k * H + h)] +=
            (weighted ? weights.get(i) : 1.0) * rows.get(static_cast<std::int64_t>(slot.get(i)) * H + h);
    return out;
  }
};

TEST_F(RowsTest, CombineMatchesReference) {
  for (const auto& [row_type, out_type] : {std::pair{DType::F32, DType::F32},
                                           {DType::BF16, DType::BF16},
                                           {DType::BF16, DType::F32},
                                           {DType::F32, DType::BF16}})
    for (const std::int64_t T : {0, 1, 23})
      for (const std::int64_t H : {1, 37, 1100})
        for (const std::int64_t k : {1, 2, 3})
          for (const bool weighted : {true, false})
            for (const Store kind : {Store::Overwrite, Store::Accumulate}) {
              const Combine c(T, H, k, row_type);
              HostTensor out = random_tensor(out_type, {T, H}, "before");
              const auto before = out.values(), sums = c.sums(weighted);
              ops->combine_rows(*stream, out, c.rows, c.slot,
                                weighted ? static_cast<const Tensor&>(c.weights) : Tensor(), kind);
              const double unit = out_type == DType::BF16 ? 1.0 / 256 : 1e-6;
              for (std::size_t i = 0; i < sums.size(); ++i) {
                const double want = sums[i] + (kind == Store::Accumulate ? before[i] : 0);
                ASSERT_NEAR(out.get(static_cast<std::int64_t>(i)), want, unit * std::abs(want) + 2e-6);
              }
            }
}

TEST_F(RowsTest, CombineIntoStridedRowsLeavesTheRestAlone) {
  const Combine c(7, 20, 2, DType::F32);
  HostTensor wide(DType::F32, {7, 31});
  for (std::int64_t i = 0; i < wide.size(); ++i) set(wide, i, 5);
  ops->combine_rows(*stream, wide.slice_columns(4, 24), c.rows, c.slot, c.weights, Store::Overwrite);
  HostTensor dense(DType::F32, {7, 20});
  ops->combine_rows(*stream, dense, c.rows, c.slot, c.weights, Store::Overwrite);
  for (std::int64_t t = 0; t < 7; ++t)
    for (std::int64_t h = 0; h < 31; ++h)
      EXPECT_EQ(wide.get(t * 31 + h), h < 4 || h >= 24 ? 5.0 : dense.get(t * 20 + h - 4));
}

// loss = <dout, combine(rows, weights)> is linear in each argument, so differences in fp64 are exact up to rounding.
TEST_F(RowsTest, CombineBackwardMatchesFiniteDifferences) {
  for (const std::int64_t k : {1, 3}) {
    const Combine c(5, 19, k, DType::F32);
    const HostTensor dout = random_tensor(DType::F32, {c.T, c.H}, "dout");
    HostTensor drows(DType::F32, {c.R, c.H}), dweights(DType::F32, {c.T, k});
    ops->combine_rows_backward(*stream, drows, dweights, dout, c.rows, c.slot, c.weights);
    const auto loss = [&] {
      const auto out = c.sums(true);
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout.get(static_cast<std::int64_t>(i));
      return sum;
    };
    const auto difference = [&](const HostTensor& of, std::int64_t i) {
      const double at = of.get(i), h = 0.5;
      set(of, i, at + h);
      const double up = loss(), up_at = of.get(i);
      set(of, i, at - h);
      const double down = loss(), down_at = of.get(i);
      set(of, i, at);
      return (up - down) / (up_at - down_at);
    };
    for (std::int64_t i = 0; i < drows.size(); ++i) EXPECT_NEAR(drows.get(i), difference(c.rows, i), 1e-6);
    for (std::int64_t i = 0; i < dweights.size(); ++i) EXPECT_NEAR(dweights.get(i), difference(c.weights, i), 1e-5);
  }
}

TEST_F(RowsTest, CombineBackwardInEveryTypeAndInPlace) {
  for (const auto& [row_type, out_type] : {std::pair{DType::F32, DType::F32},
                                           {DType::BF16, DType::BF16},
                                           {DType::BF16, DType::F32},
                                           {DType::F32, DType::BF16}}) {
    const Combine c(11, 130, 2, row_type);
    const HostTensor dout = random_tensor(out_type, {c.T, c.H}, "dout");
    HostTensor drows(row_type, {c.R, c.H}), dweights(DType::F32, {c.T, c.k});
    for (std::int64_t i = 0; i < drows.size(); ++i) set(drows, i, 3);
    ops->combine_rows_backward(*stream, drows, dweights, dout, c.rows, c.slot, c.weights);
    std::vector<bool> named(static_cast<std::size_t>(c.R));
    for (std::int64_t i = 0; i < c.T * c.k; ++i) {
      const auto r = static_cast<std::int64_t>(c.slot.get(i));
      double dot = 0;
      for (std::int64_t h = 0; h < c.H && r >= 0; ++h) {
        const double g = dout.get(i / c.k * c.H + h), want = c.weights.get(i) * g;
        dot += g * c.rows.get(r * c.H + h);
        ASSERT_NEAR(drows.get(r * c.H + h), want, (row_type == DType::BF16 ? 1.0 / 256 : 1e-6) * std::abs(want));
      }
      ASSERT_NEAR(dweights.get(i), dot, 2e-5);
      if (r >= 0) named[static_cast<std::size_t>(r)] = true;
    }
    for (std::int64_t r = 0; r < c.R; ++r)
      for (std::int64_t h = 0; h < c.H && !named[static_cast<std::size_t>(r)]; ++h)
        ASSERT_EQ(drows.get(r * c.H + h), 3);  // rows that no slot names are left alone

    HostTensor in_place = copy_of(c.rows), dweights2(DType::F32, {c.T, c.k});
    ops->combine_rows_backward(*stream, in_place, dweights2, dout, in_place, c.slot, c.weights);
    EXPECT_TRUE(same_bits(dweights2, dweights));
    for (std::int64_t r = 0; r < c.R; ++r)
      for (std::int64_t h = 0; h < c.H && named[static_cast<std::size_t>(r)]; ++h)
        ASSERT_EQ(in_place.get(r * c.H + h), drows.get(r * c.H + h));
  }
}

TEST_F(RowsTest, DispatchAndCombineAreInverse) {
  const std::int64_t T = 50, k = 2, H = 24;
  const HostTensor x = random_tensor(DType::BF16, {T, H}, "x");
  const Combine c(T, H, k, DType::BF16);
  HostTensor slot(DType::I32, {T, k}), source(DType::I32, {T * k}), rows(DType::BF16, {T * k, H}),
      out(DType::BF16, {T, H});
  HostTensor half(DType::F32, {T, k});
  for (std::int64_t i = 0; i < T * k; ++i) {
    set(slot, i, static_cast<double>((i * 37) % (T * k)));
    set(source, (i * 37) % (T * k), static_cast<double>(i / k));
    set(half, i, 0.5);
  }
  ops->gather_rows(*stream, rows, x, source);
  ops->combine_rows(*stream, out, rows, slot, half, Store::Overwrite);
  EXPECT_TRUE(same_bits(out, x));
}

TEST_F(RowsTest, SameBitsOnAnyNumberOfThreads) {
  const Combine c(301, 257, 3, DType::BF16);
  const HostTensor dout = random_tensor(DType::BF16, {c.T, c.H}, "dout");
  std::vector<std::vector<HostTensor>> runs;
  for (const int threads : {1, 1, 2, 3}) {
    const ThreadCount count(threads);
    HostTensor out(DType::BF16, {c.T, c.H}), drows(DType::BF16, {c.R, c.H}), dweights(DType::F32, {c.T, c.k});
    ops->combine_rows(*stream, out, c.rows, c.slot, c.weights, Store::Overwrite);
    ops->combine_rows_backward(*stream, drows, dweights, dout, c.rows, c.slot, c.weights);
    runs.push_back({out, drows, dweights});
  }
  for (std::size_t run = 1; run < runs.size(); ++run)
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(runs[run][i], runs[0][i])) << run << " " << i;
}

TEST_F(RowsTest, CombineChecksItsArguments) {
  const Combine c(4, 8, 2, DType::F32);
  HostTensor out(DType::F32, {4, 8});
  const HostTensor bad = copy_of(c.slot);
  for (const double wrong : {static_cast<double>(c.R), -2.0}) {
    set(bad, 0, wrong);
    if (device->kind() == DeviceKind::Cpu) {  // only the host can throw for what it reads
      EXPECT_THROW(ops->combine_rows(*stream, out, c.rows, bad, c.weights, Store::Overwrite), Error);
    }
  }
  EXPECT_THROW(ops->combine_rows(*stream, HostTensor(DType::F32, {4, 9}), c.rows, c.slot, c.weights, Store::Overwrite),
               Error);
  EXPECT_THROW(ops->combine_rows(*stream, out, c.rows, c.slot, HostTensor(DType::F32, {4, 3}), Store::Overwrite),
               Error);
}

}  // namespace
}  // namespace upcycle
