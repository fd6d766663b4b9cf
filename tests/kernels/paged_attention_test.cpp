#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::relative_l2;

struct Problem {
  std::vector<int> rows, keys;  // of each sequence
  std::int64_t N, K, D, P;
  DType dtype = DType::F32;
  std::int64_t beyond = 0;  // rows of q past the last sequence
  std::int64_t gap = 0;     // elements between rows of q, k and v

  std::int64_t count() const { return static_cast<std::int64_t>(rows.size()); }
  std::int64_t T() const { return std::accumulate(rows.begin(), rows.end(), beyond); }
  std::int64_t pages_of(std::size_t i) const { return (keys[i] + P - 1) / P; }
  std::string describe() const {
    std::string s = fmt::format("{} N {} K {} D {} P {} rows/keys", name_of(dtype), N, K, D, P);
    for (std::size_t i = 0; i < rows.size(); ++i) s += fmt::format(" {}/{}", rows[i], keys[i]);
    return s;
  }
};

// Which elements a sequence has does not depend on the others: `name` and the position give them.
void fill_row(const HostTensor& t, std::int64_t row, std::string_view name, std::int64_t at) {
  for (std::int64_t c = 0; c < t.columns(); ++c) {
    HostTensor to = t;
    to.set(row * t.columns() + c, rng::normal(7, rng::key_of(name), static_cast<std::uint64_t>(at * t.columns() + c)));
  }
}

struct Buffers {
  Problem p;
  HostTensor offsets, lengths, pages, q, out, k_cache, v_cache;
  std::vector<HostTensor> k, v;  // of each sequence

  // `names`: of the sequences, whose contents follow from them; by default their indices.
  explicit Buffers(const Problem& problem, std::vector<int> names = {})
      : p(problem),
        offsets(DType::I32, {p.count() + 1}),
        lengths(DType::I32, {p.count()}),
        pages(DType::I32, {p.count(), most_pages()}),
        q(p.dtype, {p.T(), p.N * p.D}, p.gap),
        out(p.dtype, {p.T(), p.N * p.D}, p.gap),
        k_cache(p.dtype, {total_pages() + 2, p.K, p.P, p.D}),
        v_cache(p.dtype, {total_pages() + 2, p.K, p.P, p.D}) {
    const double nan = std::numeric_limits<double>::quiet_NaN();  // what nobody may read
    q.fill_value(nan);
    out.fill_value(nan);
    k_cache.fill_value(nan);
    v_cache.fill_value(nan);
    pages.fill_value(-1);
    std::vector<std::int64_t> shuffled(static_cast<std::size_t>(total_pages() + 2));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    for (std::size_t i = shuffled.size() - 1; i > 0; --i) std::swap(shuffled[i], shuffled[rng::below(i + 1, 5, 1, i)]);
    set(offsets, 0, 0);
    std::int64_t row = 0;
    for (std::size_t i = 0; i < p.rows.size(); ++i) {
      const std::string name = fmt::format("{}", names.empty() ? static_cast<int>(i) : names[i]);
      const std::int64_t length = p.keys[i], n = static_cast<std::int64_t>(i);
      for (std::int64_t r = 0; r < p.rows[i]; ++r) fill_row(q, row++, "q" + name, length - p.rows[i] + r);
      set(offsets, n + 1, static_cast<double>(row));
      set(lengths, n, static_cast<double>(length));
      for (std::int64_t j = 0; j < p.pages_of(i); ++j) {
        set(pages, n * pages.columns() + j, static_cast<double>(shuffled.back()));
        shuffled.pop_back();
      }
      k.emplace_back(p.dtype, std::initializer_list<std::int64_t>{length, p.K * p.D}, p.gap);
      v.emplace_back(p.dtype, std::initializer_list<std::int64_t>{length, p.K * p.D}, p.gap);
      for (std::int64_t j = 0; j < length; ++j) {
        fill_row(k.back(), j, "k" + name, j);
        fill_row(v.back(), j, "v" + name, j);
      }
    }
  }
  std::int64_t most_pages() const {
    std::int64_t most = 1;
    for (std::size_t i = 0; i < p.keys.size(); ++i) most = std::max(most, p.pages_of(i) + 1);
    return most;
  }
  std::int64_t total_pages() const {
    std::int64_t total = 0;
    for (std::size_t i = 0; i < p.keys.size(); ++i) total += p.pages_of(i);
    return total;
  }
  PagedCache cache() const { return {k_cache, v_cache}; }
  PagedSequences sequences() const {
    return {offsets,
            lengths,
            pages,
            p.count(),
            p.rows.empty() ? 0 : *std::max_element(p.rows.begin(), p.rows.end()),
            p.keys.empty() ? 0 : *std::max_element(p.keys.begin(), p.keys.end())};
  }
  std::int64_t slot(std::size_t i, std::int64_t position) const {
    return static_cast<std::int64_t>(pages.get(static_cast<std::int64_t>(i) * pages.columns() + position / p.P)) * p.P +
           position % p.P;
  }
};

std::vector<double> reference(const Buffers& b) {
  const auto& [rows, keys, N, K, D, P, dtype, beyond, gap] = b.p;
  std::vector<double> out(static_cast<std::size_t>(b.out.size()));
  std::int64_t row = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (int r = 0; r < rows[i]; ++r, ++row) {
      const std::int64_t seen = keys[i] - rows[i] + r + 1;
      for (std::int64_t n = 0; n < N; ++n) {
        const std::int64_t head = n / (N / K) * D;
        std::vector<double> weights(static_cast<std::size_t>(seen));
        double highest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (std::int64_t j = 0; j < seen; ++j) {
          double score = 0;
          for (std::int64_t d = 0; d < D; ++d) score += b.q.get(row, n * D + d) * b.k[i].get(j, head + d);
          weights[static_cast<std::size_t>(j)] = score / std::sqrt(static_cast<double>(D));
          highest = std::max(highest, weights[static_cast<std::size_t>(j)]);
        }
        for (double& w : weights) sum += w = std::exp(w - highest);
        for (std::int64_t j = 0; j < seen; ++j)
          for (std::int64_t d = 0; d < D; ++d)
            out[static_cast<std::size_t>((row * N + n) * D + d)] +=
                weights[static_cast<std::size_t>(j)] / sum * b.v[i].get(j, head + d);
      }
    }
  }
  return out;
}

struct PagedAttentionTest : OpTest {
  Workspace workspace(const Problem& p) {
    OpLimits limits;
    limits.T = p.T();
    limits.N = p.N;
    limits.K = p.K;
    limits.D = p.D;
    limits.H = p.N * p.D;
    limits.keys = p.keys.empty() ? 0 : *std::max_element(p.keys.begin(), p.keys.end());
    limits.sequences = p.count();
    limits.dtype = p.dtype;
    return workspace_for(limits);
  }
  // All keys and values of all sequences, the later ones first.
  void store(const Buffers& b) {
    for (std::size_t i = b.k.size(); i-- > 0;) {
      const HostTensor slots(DType::I32, {b.k[i].rows()});
      for (std::int64_t j = 0; j < slots.size(); ++j) set(slots, j, static_cast<double>(b.slot(i, j)));
      ops->store_in_pages(*stream, b.cache(), b.k[i], b.v[i], slots);
    }
  }
  void attend(const Buffers& b, float scale = 0) {
    ops->paged_attention(*stream, workspace(b.p), b.out, b.q, b.cache(), b.sequences(), scale);
  }
};

// Twice the usual factor on scores is twice the query: powers of two change no other bit.
TEST_F(PagedAttentionTest, ScalesScores) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Buffers scaled({{1, 70, 1, 33, 5}, {200, 70, 3, 130, 90}, 8, 2, 64, 16, dtype, 3}), doubled(scaled.p);
    for (const Buffers* b : {&scaled, &doubled}) store(*b);
    ops->scale(*stream, doubled.q, doubled.q, 2);
    attend(scaled, 0.25f);
    attend(doubled);
    EXPECT_TRUE(same_bits(scaled.out, doubled.out));
  }
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    all.push_back({{1}, {1}, 1, 1, 64, 16, dtype});
    all.push_back({{1, 1, 1, 1, 1}, {1, 17, 64, 129, 300}, 4, 1, 64, 16, dtype});
    all.push_back({{1, 1, 1}, {300, 65, 8}, 8, 1, 128, 8, dtype});
    all.push_back({{1, 1}, {190, 31}, 3, 3, 16, 64, dtype});
    all.push_back({{1, 70, 1, 33, 5}, {200, 70, 3, 130, 90}, 8, 2, 64, 16, dtype, 3});  // chunks, a prompt, single rows
    all.push_back({{1, 0, 140, 1}, {90, 20, 141, 260}, 2, 2, 128, 32, dtype, 1});
    all.push_back({{9, 1}, {75, 88}, 6, 2, 80, 16, dtype, 2, 8});
    all.push_back({{1, 12, 1}, {100, 60, 33}, 5, 1, 43, 8, dtype, 0, 3});  // rows that begin anywhere
    all.push_back({{2, 1, 3}, {40, 70, 3}, 16, 1, 200, 64, dtype});
    all.push_back({{1, 1, 2}, {1100, 513, 520}, 4, 2, 16, 32, dtype});
    all.push_back({{}, {}, 4, 2, 64, 16, dtype, 5});
    all.push_back({{0, 0}, {12, 0}, 4, 2, 64, 16, dtype, 2});
  }
  return all;
}

TEST_F(PagedAttentionTest, EqualsTheReference) {
  for (const Problem& p : problems()) {
    SCOPED_TRACE(p.describe());
    const Buffers b(p);
    store(b);
    attend(b);
    EXPECT_LT(relative_l2(b.out.values(), reference(b)), p.dtype == DType::F32 ? 2e-6 : 4e-3);
    const std::int64_t rows = p.T() - p.beyond;
    for (std::int64_t i = rows * b.out.columns(); i < b.out.size(); ++i) ASSERT_EQ(b.out.get(i), 0) << i;
    EXPECT_TRUE(b.out.gaps_untouched());
  }
}

// Bits of a sequence do not depend on the others, on where its pages lie or on the number of threads.
TEST_F(PagedAttentionTest, SequencesDoNotShowInEachOther) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Problem together{{1, 20, 1, 1, 7}, {1300, 90, 5, 512, 100}, 8, 2, 64, 16, dtype, 2};
    const Buffers all(together);
    store(all);
    attend(all);
    std::int64_t row = 0;
    for (int i = 0; i < together.count(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      for (const int threads : {1, 2, 5}) {
        const ThreadCount count(threads);
        const Buffers one({{together.rows[at]}, {together.keys[at]}, 8, 2, 64, 16, dtype}, {i});
        store(one);
        attend(one);
        EXPECT_TRUE(same_bits(one.out, all.out.slice_rows(row, row + together.rows[at]))) << i << " of " << threads;
      }
      row += together.rows[at];
    }
  }
}

TEST_F(PagedAttentionTest, ChunksGiveWhatTheWholePromptGives) {
  const Problem whole{{150}, {150}, 4, 2, 64, 16};
  const Buffers all(whole);
  store(all);
  attend(all);
  for (const int end : {1, 2, 65, 150}) {
    const Buffers chunk({{std::min(end, 33)}, {end}, 4, 2, 64, 16});
    store(chunk);
    attend(chunk);
    const HostTensor expected = copy_of(all.out.slice_rows(end - chunk.p.rows[0], end));
    EXPECT_LT(relative_l2(chunk.out.values(), expected.values()), 1e-6) << end;
  }
}

TEST_F(PagedAttentionTest, StoringTouchesNothingElse) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t D : {3, 16}) {
      const std::int64_t K = 3, P = 8, pages = 4, T = 5;
      const HostTensor k = random_tensor(dtype, {T, K * D}, "k"), v = random_tensor(dtype, {T, K * D}, "v");
      HostTensor k_cache(dtype, {pages, K, P, D}), v_cache(dtype, {pages, K, P, D});
      k_cache.fill_value(-3);
      v_cache.fill_value(-4);
      const HostTensor slots(DType::I32, {T});
      const std::vector<int> at{9, -1, 31, 0, 10};
      for (std::int64_t t = 0; t < T; ++t) set(slots, t, at[static_cast<std::size_t>(t)]);
      ops->store_in_pages(*stream, {k_cache, v_cache}, k, v, slots);
      for (std::int64_t slot = 0; slot < pages * P; ++slot) {
        const auto found = std::find(at.begin(), at.end(), slot);
        for (std::int64_t c = 0; c < K * D; ++c) {
          const std::int64_t i = ((slot / P * K + c / D) * P + slot % P) * D + c % D;
          ASSERT_EQ(k_cache.get(i), found == at.end() ? -3 : k.get(found - at.begin(), c));
          ASSERT_EQ(v_cache.get(i), found == at.end() ? -4 : v.get(found - at.begin(), c));
        }
      }
    }
  }
}

TEST_F(PagedAttentionTest, RefusesWhatDoesNotFit) {
  const Problem p{{1, 4}, {20, 30}, 4, 2, 16, 8};
  const Buffers b(p);
  store(b);
  const Workspace enough = workspace(p);
  const auto run = [&](const Tensor& out, const Tensor& q, const PagedCache& cache, const PagedSequences& s) {
    ops->paged_attention(*stream, enough, out, q, cache, s);
  };
  EXPECT_NO_THROW(run(b.out, b.q, b.cache(), b.sequences()));
  EXPECT_THROW(run(b.out, b.q.slice_columns(0, 40), b.cache(), b.sequences()), Error);
  EXPECT_THROW(run(b.out.slice_rows(0, 4), b.q, b.cache(), b.sequences()), Error);
  const HostTensor odd(DType::F32, {3, 2, 12, 16}), other(DType::BF16, {3, 2, 8, 16});
  EXPECT_THROW(run(b.out, b.q, {odd, odd}, b.sequences()), Error);
  EXPECT_THROW(run(b.out, b.q, {other, other}, b.sequences()), Error);
  EXPECT_THROW(run(b.out, b.q, {b.k_cache, other}, b.sequences()), Error);
  PagedSequences more = b.sequences();
  more.most_keys = 1000;
  EXPECT_THROW(run(b.out, b.q, b.cache(), more), Error);
  const HostTensor slots(DType::I32, {20}), too_few(DType::I32, {19});
  EXPECT_NO_THROW(ops->store_in_pages(*stream, b.cache(), b.k[0], b.v[0], slots));
  EXPECT_THROW(ops->store_in_pages(*stream, b.cache(), b.k[0], b.v[0], too_few), Error);
  EXPECT_THROW(ops->store_in_pages(*stream, {other, other}, b.k[0], b.v[0], slots), Error);
  if (device->kind() != DeviceKind::Cpu) return;  // a GPU's launcher sees no indices
  set(slots, 3, static_cast<double>(b.k_cache.rows() * p.P));
  EXPECT_THROW(ops->store_in_pages(*stream, b.cache(), b.k[0], b.v[0], slots), Error);
  set(b.lengths, 1, 3);  // fewer keys than rows
  EXPECT_THROW(run(b.out, b.q, b.cache(), b.sequences()), Error);
  set(b.lengths, 1, 30);
  set(b.pages, 1, 99);
  EXPECT_THROW(run(b.out, b.q, b.cache(), b.sequences()), Error);
}

}  // namespace
}  // namespace upcycle
