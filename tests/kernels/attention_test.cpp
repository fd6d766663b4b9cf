#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using Values = std::vector<double>;

struct Problem {
  std::vector<int> q_lengths, k_lengths;
  std::int64_t N, K, D;
  DType dtype = DType::F32;
  double scale = 1;      // of q and k
  bool aligned = false;  // rows begin at multiples of 16 bytes

  std::int64_t Tq() const { return std::accumulate(q_lengths.begin(), q_lengths.end(), std::int64_t{0}); }
  std::int64_t Tk() const { return std::accumulate(k_lengths.begin(), k_lengths.end(), std::int64_t{0}); }
  std::string describe() const {
    std::string s = fmt::format("{} N {} K {} D {} q", name_of(dtype), N, K, D);
    for (const int n : q_lengths) s += fmt::format(" {}", n);
    s += " k";
    for (const int n : k_lengths) s += fmt::format(" {}", n);
    return s + (aligned ? " aligned" : "");
  }
};

struct Sequences {
  HostTensor offsets;
  PackedSequences packed;
  explicit Sequences(const std::vector<int>& lengths)
      : offsets(DType::I32, {static_cast<std::int64_t>(lengths.size()) + 1}) {
    int longest = 0, at = 0;
    set(offsets, 0, 0);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      at += lengths[i];
      longest = std::max(longest, lengths[i]);
      set(offsets, static_cast<std::int64_t>(i) + 1, at);
    }
    packed = {offsets, static_cast<std::int64_t>(lengths.size()), longest};
  }
};

Values values_of(const Tensor& t) {
  Values v;
  for (std::int64_t i = 0; i < t.rows(); ++i) {
    for (std::int64_t j = 0; j < t.columns(); ++j) {
      const std::int64_t at = i * t.row_stride + j;
      v.push_back(t.dtype == DType::BF16 ? to_float(t.as<bf16>()[at]) : t.as<float>()[at]);
    }
  }
  return v;
}

// All tensors of one problem. q, k, v and their gradients are column blocks with other columns around them.
struct Buffers {
  Problem p;
  Sequences q_sequences, k_sequences;
  HostTensor q_wide, kv_wide, dq_wide, dkv_wide, dout, out, lse;
  Tensor q, k, v, dq, dk, dv;

  // Columns of others before q, between k and v, and behind both.
  std::int64_t before() const { return p.aligned ? 8 : 2; }
  std::int64_t between() const { return p.aligned ? 8 : 1; }
  std::int64_t behind() const { return p.aligned ? 8 : 3; }

  explicit Buffers(const Problem& problem)
      : p(problem),
        q_sequences(p.q_lengths),
        k_sequences(p.k_lengths),
        q_wide(random_tensor(p.dtype, {p.Tq(), before() + p.N * p.D + behind()}, "q", p.scale)),
        kv_wide(random_tensor(p.dtype, {p.Tk(), 2 * p.K * p.D + between() + behind()}, "kv", p.scale)),
        dq_wide(random_tensor(p.dtype, {p.Tq(), q_wide.columns()}, "dq")),
        dkv_wide(random_tensor(p.dtype, {p.Tk(), kv_wide.columns()}, "dkv")),
        dout(random_tensor(p.dtype, {p.Tq(), p.N * p.D}, "dout")),
        out(p.dtype, {p.Tq(), p.N * p.D}),
        lse(DType::F32, {p.N, p.Tq()}) {
    const std::int64_t v_begin = p.K * p.D + between();
    q = q_wide.slice_columns(before(), before() + p.N * p.D);
    k = kv_wide.slice_columns(0, p.K * p.D);
    v = kv_wide.slice_columns(v_begin, v_begin + p.K * p.D);
    dq = dq_wide.slice_columns(before(), before() + p.N * p.D);
    dk = dkv_wide.slice_columns(0, p.K * p.D);
    dv = dkv_wide.slice_columns(v_begin, v_begin + p.K * p.D);
  }
};

struct Reference {
  Values out, lse, dq, dk, dv;
};

// The textbook formulas, one query row at a time.
Reference reference(const Problem& p, const Values& q, const Values& k, const Values& v, const Values& dout) {
  const auto N = p.N, K = p.K, D = p.D, G = N / K;
  Reference r{Values(q.size()), Values(static_cast<std::size_t>(N * p.Tq())), Values(q.size()), Values(k.size()),
              Values(v.size())};
  const auto at = [](Values& x, std::int64_t i) -> double& { return x[static_cast<std::size_t>(i)]; };
  const auto get = [](const Values& x, std::int64_t i) { return x[static_cast<std::size_t>(i)]; };
  std::int64_t q_begin = 0, k_begin = 0;
  for (std::size_t s = 0; s < p.q_lengths.size(); ++s) {
    const std::int64_t nq = p.q_lengths[s], nk = p.k_lengths[s];
    for (std::int64_t i = 0; i < nq; ++i) {
      const std::int64_t seen = std::max<std::int64_t>(0, i + nk - nq + 1);
      for (std::int64_t n = 0; n < N; ++n) {
        const std::int64_t q0 = (q_begin + i) * N * D + n * D;
        const auto kv = [&](std::int64_t j) { return (k_begin + j) * K * D + n / G * D; };
        Values weight(static_cast<std::size_t>(seen));
        double highest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (std::int64_t j = 0; j < seen; ++j) {
          double score = 0;
          for (std::int64_t d = 0; d < D; ++d) score += get(q, q0 + d) * get(k, kv(j) + d);
          at(weight, j) = score / std::sqrt(static_cast<double>(D));
          highest = std::max(highest, at(weight, j));
        }
        for (double& w : weight) sum += w = std::exp(w - highest);
        for (double& w : weight) w /= sum;
        at(r.lse, n * p.Tq() + q_begin + i) = highest + std::log(sum);
        double delta = 0;
        for (std::int64_t d = 0; d < D; ++d) {
          double o = 0;
          for (std::int64_t j = 0; j < seen; ++j) o += at(weight, j) * get(v, kv(j) + d);
          at(r.out, q0 + d) = o;
          delta += o * get(dout, q0 + d);
        }
        for (std::int64_t j = 0; j < seen; ++j) {
          double dweight = 0;
          for (std::int64_t d = 0; d < D; ++d) dweight += get(dout, q0 + d) * get(v, kv(j) + d);
          const double dscore = at(weight, j) * (dweight - delta) / std::sqrt(static_cast<double>(D));
          for (std::int64_t d = 0; d < D; ++d) {
            at(r.dq, q0 + d) += dscore * get(k, kv(j) + d);
            at(r.dk, kv(j) + d) += dscore * get(q, q0 + d);
            at(r.dv, kv(j) + d) += at(weight, j) * get(dout, q0 + d);
          }
        }
      }
    }
    q_begin += nq;
    k_begin += nk;
  }
  return r;
}

Reference reference(const Buffers& b) {
  return reference(b.p, values_of(b.q), values_of(b.k), values_of(b.v), values_of(b.dout));
}

double distance(const Values& found, const Values& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference) / (std::sqrt(norm) + 1e-30);
}

struct AttentionTest : OpTest {
  Workspace workspace(const Problem& p) {
    OpLimits limits;
    limits.T = std::max(p.Tq(), p.Tk());
    limits.N = p.N;
    limits.K = p.K;
    limits.D = p.D;
    limits.H = p.N * p.D;
    limits.dtype = p.dtype;
    return workspace_for(limits);
  }
  void forward(const Buffers& b, float scale = 0) {
    ops->attention_forward(*stream, workspace(b.p), b.out, b.lse, b.q, b.k, b.v, b.p.D, b.q_sequences.packed,
                           b.k_sequences.packed, scale);
  }
  void backward(const Buffers& b, float scale = 0) {
    ops->attention_backward(*stream, workspace(b.p), b.dq, b.dk, b.dv, b.dout, b.q, b.k, b.v, b.out, b.lse, b.p.D,
                            b.q_sequences.packed, b.k_sequences.packed, scale);
  }
};

// Twice the usual factor on scores is twice the query: powers of two change no other bit.
TEST_F(AttentionTest, ScalesScores) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const bool aligned : {false, true}) {
      const Problem p{{7, 130, 64}, {7, 130, 64}, 4, 2, 64, dtype, 1, aligned};
      const Buffers scaled(p), doubled(p);
      ops->scale(*stream, doubled.q, doubled.q, 2);
      forward(scaled, 0.25f);
      backward(scaled, 0.25f);
      forward(doubled);
      backward(doubled);
      ops->scale(*stream, doubled.dq, doubled.dq, 2);
      EXPECT_TRUE(same_bits(scaled.out, doubled.out));
      EXPECT_TRUE(same_bits(scaled.lse, doubled.lse));
      EXPECT_EQ(values_of(scaled.dq), values_of(doubled.dq));
      EXPECT_EQ(values_of(scaled.dk), values_of(doubled.dk));
      EXPECT_EQ(values_of(scaled.dv), values_of(doubled.dv));
    }
}

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    all.push_back({{64}, {64}, 1, 1, 64, dtype});
    all.push_back({{7, 130, 64}, {7, 130, 64}, 4, 2, 8, dtype});
    all.push_back({{200, 1, 65}, {200, 1, 65}, 6, 2, 16, dtype});
    all.push_back({{33, 90}, {33, 90}, 3, 3, 43, dtype});
    all.push_back({{261, 12}, {261, 12}, 2, 1, 64, dtype});
    all.push_back({{70, 129}, {70, 129}, 2, 2, 128, dtype});
    all.push_back({{9}, {9}, 8, 1, 1, dtype});
    all.push_back({{90}, {101}, 5, 1, 16, dtype});  // a group that does not divide the rows of a step
    all.push_back({{1, 1, 5, 0, 90}, {300, 64, 77, 4, 213}, 4, 2, 64, dtype});  // queries that continue cached keys
    all.push_back({{70, 6}, {3, 0}, 2, 1, 16, dtype});                          // rows that see no key
    all.push_back({{150, 33}, {150, 33}, 4, 2, 64, dtype, 1, true});
    all.push_back({{135, 1}, {135, 90}, 3, 1, 128, dtype, 1, true});
    all.push_back({{1, 1, 5, 0, 90}, {300, 64, 77, 4, 213}, 4, 2, 64, dtype, 1, true});
    all.push_back({{70, 6}, {3, 0}, 2, 1, 128, dtype, 1, true});
    all.push_back({{70, 29}, {70, 29}, 2, 1, 200, dtype, 1, true});
  }
  return all;
}

// bf16: every stored number is rounded to 8 bits; the backward also reads the rounded output.
double tolerance(DType dtype, double fp32 = 2e-6, double bf16 = 4e-3) { return dtype == DType::F32 ? fp32 : bf16; }

TEST_F(AttentionTest, ForwardEqualsTheReference) {
  for (const Problem& p : problems()) {
    SCOPED_TRACE(p.describe());
    const Buffers b(p);
    forward(b);
    const Reference expected = reference(b);
    EXPECT_LT(distance(b.out.values(), expected.out), tolerance(p.dtype));
    for (std::int64_t i = 0; i < b.lse.size(); ++i) {
      const double lse = expected.lse[static_cast<std::size_t>(i)];
      if (std::isinf(lse) || std::isnan(lse)) {
        EXPECT_EQ(b.lse.get(i), -std::numeric_limits<double>::infinity());
      } else {
        ASSERT_NEAR(b.lse.get(i), lse, 2e-6 * std::max(1.0, std::abs(lse))) << i;  // fp32 for both types
      }
    }
  }
}

TEST_F(AttentionTest, BackwardEqualsTheReference) {
  for (const Problem& p : problems()) {
    SCOPED_TRACE(p.describe());
    const Buffers b(p);
    const HostTensor dq_before = copy_of(b.dq_wide), dkv_before = copy_of(b.dkv_wide);
    forward(b);
    backward(b);
    const Reference expected = reference(b);
    if (p.D > 1) {
      EXPECT_LT(distance(values_of(b.dq), expected.dq), tolerance(p.dtype));
      EXPECT_LT(distance(values_of(b.dk), expected.dk), tolerance(p.dtype));
    }
    EXPECT_LT(distance(values_of(b.dv), expected.dv), tolerance(p.dtype));
    // Columns beside the gradients belong to others.
    for (std::int64_t t = 0; t < p.Tq(); ++t) {
      for (const std::int64_t c : {b.before() - 1, b.before() + p.N * p.D}) {
        const std::int64_t at = t * b.dq_wide.columns() + c;
        ASSERT_EQ(b.dq_wide.get(at), dq_before.get(at));
      }
    }
    for (std::int64_t t = 0; t < p.Tk(); ++t) {
      const std::int64_t at = t * b.dkv_wide.columns() + p.K * p.D;
      ASSERT_EQ(b.dkv_wide.get(at), dkv_before.get(at));
    }
  }
}

TEST_F(AttentionTest, BackwardEqualsFiniteDifferences) {
  const Problem p{{5, 3}, {5, 6}, 4, 2, 8};
  const Buffers b(p);
  forward(b);
  backward(b);
  Values q = values_of(b.q), k = values_of(b.k), v = values_of(b.v);
  const Values dout = values_of(b.dout);
  const auto loss = [&] {
    const Values out = reference(p, q, k, v, dout).out;
    return std::inner_product(out.begin(), out.end(), dout.begin(), 0.0);
  };
  const auto check = [&](Values& x, const Tensor& gradient) {
    const Values found = values_of(gradient);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double before = x[i], eps = 1e-5;
      x[i] = before + eps;
      const double above = loss();
      x[i] = before - eps;
      const double below = loss();
      x[i] = before;
      ASSERT_NEAR(found[i], (above - below) / (2 * eps), 5e-6) << i;
    }
  };
  check(q, b.dq);
  check(k, b.dk);
  check(v, b.dv);
}

TEST_F(AttentionTest, SameBitsForEveryThreadCount) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Problem p{{190, 3, 77}, {190, 30, 77}, 4, 2, 64, dtype, 1, true};
    const Buffers one(p);
    {
      const ThreadCount threads(1);
      forward(one);
      backward(one);
    }
    for (const int n : {1, 2, 3}) {
      const ThreadCount threads(n);
      const Buffers many(p);
      forward(many);
      backward(many);
      EXPECT_TRUE(same_bits(many.out, one.out)) << n;
      EXPECT_TRUE(same_bits(many.lse, one.lse)) << n;
      EXPECT_TRUE(same_bits(many.dq_wide, one.dq_wide)) << n;
      EXPECT_TRUE(same_bits(many.dkv_wide, one.dkv_wide)) << n;
    }
  }
}

TEST_F(AttentionTest, LaterKeysDoNotReachEarlierRows) {
  const Problem p{{150}, {150}, 2, 1, 16};
  const Buffers a(p), b(p);
  forward(a);
  for (std::int64_t c = 0; c < b.kv_wide.columns(); ++c) set(b.kv_wide, 101 * b.kv_wide.columns() + c, 9);
  forward(b);
  const Tensor before = a.out.slice_rows(0, 101), after = b.out.slice_rows(0, 101);
  EXPECT_EQ(std::memcmp(before.data, after.data, before.bytes()), 0);
  for (std::int64_t t = 101; t < 150; ++t) EXPECT_NE(a.out.get(t * 32), b.out.get(t * 32)) << t;
}

TEST_F(AttentionTest, LongContextInOneStepEqualsTheLastRowOfAll) {
  const std::int64_t D = 32;
  const Problem all{{333}, {333}, 4, 2, D}, last{{1}, {333}, 4, 2, D};
  const Buffers a(all), b(last);
  std::memcpy(b.q_wide.data, a.q_wide.slice_rows(332, 333).data, b.q_wide.bytes());
  forward(a);
  forward(b);
  const Tensor expected = a.out.slice_rows(332, 333);
  EXPECT_EQ(std::memcmp(b.out.data, expected.data, expected.bytes()), 0);
}

TEST_F(AttentionTest, HugeScoresStayFinite) {
  const Problem p{{100}, {100}, 2, 2, 64, DType::F32, 30};  // scores of several thousand
  const Buffers b(p);
  forward(b);
  backward(b);
  const Reference expected = reference(b);
  EXPECT_LT(distance(b.out.values(), expected.out), 1e-3);  // exp magnifies the scores' fp32 rounding
  for (const double x : values_of(b.dq)) ASSERT_TRUE(std::isfinite(x));
  for (const double x : values_of(b.dk)) ASSERT_TRUE(std::isfinite(x));
}

TEST_F(AttentionTest, NotANumberIsNotHidden) {
  const Problem p{{80}, {80}, 1, 1, 16};
  const Buffers b(p);
  set(b.kv_wide, 40 * b.kv_wide.columns() + 3, std::nan(""));  // in k
  forward(b);
  EXPECT_TRUE(std::isfinite(b.out.get(39 * 16)));
  for (std::int64_t t = 40; t < 80; ++t) EXPECT_TRUE(std::isnan(b.out.get(t * 16))) << t;
}

TEST_F(AttentionTest, RowsOutsideSequencesAreLeftAlone) {
  const Problem p{{20}, {20}, 2, 2, 16};
  const Buffers b(p);
  set(b.q_sequences.offsets, 1, 12);
  set(b.k_sequences.offsets, 1, 12);
  for (std::int64_t i = 0; i < b.out.size(); ++i) set(b.out, i, 5);
  const HostTensor dq = copy_of(b.dq_wide);
  forward(b);
  backward(b);
  const std::int64_t wide = b.dq_wide.columns();
  EXPECT_NE(b.out.get(11 * 32), 5);
  EXPECT_NE(b.dq_wide.get(11 * wide + 4), dq.get(11 * wide + 4));
  for (std::int64_t t = 12; t < 20; ++t) {
    EXPECT_EQ(b.out.get(t * 32 + 7), 5);
    EXPECT_EQ(b.dq_wide.get(t * wide + 4), dq.get(t * wide + 4));
  }
}

TEST_F(AttentionTest, RefusesWhatDoesNotFit) {
  const Problem p{{20}, {20}, 4, 2, 16};
  const Buffers b(p);
  const auto run = [&](const Tensor& q, const Tensor& k, std::int64_t D, Workspace w) {
    ops->attention_forward(*stream, w, b.out, b.lse, q, k, b.v, D, b.q_sequences.packed, b.k_sequences.packed);
  };
  const Workspace enough = workspace(p);
  EXPECT_NO_THROW(run(b.q, b.k, 16, enough));
  EXPECT_THROW(ops->attention_backward(*stream, {enough.data, 100}, b.dq, b.dk, b.dv, b.dout, b.q, b.k, b.v, b.out,
                                       b.lse, 16, b.q_sequences.packed, b.k_sequences.packed),
               Error);
  EXPECT_THROW(run(b.q, b.k, 24, enough), Error);
  EXPECT_THROW(run(b.q, b.k.slice_columns(0, 16), 16, enough), Error);
  EXPECT_THROW(run(b.q.slice_columns(0, 48), b.k, 16, enough), Error);
  if (stream->kind() != DeviceKind::Cpu) return;  // others do not read the offsets on the host
  set(b.k_sequences.offsets, 1, 21);
  EXPECT_THROW(run(b.q, b.k, 16, enough), Error);
  set(b.k_sequences.offsets, 1, -1);
  EXPECT_THROW(run(b.q, b.k, 16, enough), Error);
}

}  // namespace
}  // namespace upcycle
