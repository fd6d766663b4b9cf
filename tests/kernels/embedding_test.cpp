#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

constexpr std::int64_t kVocab = 20, kBegin = 100;  // this rank's rows of a larger vocabulary

// Ids of this shard and of others, some of them often.
HostTensor token_ids(std::int64_t T) {
  const HostTensor ids(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t) set(ids, t, static_cast<double>(kBegin - 5 + t * t % 31));
  return ids;
}

bool held(double id) { return id >= kBegin && id < kBegin + kVocab; }

struct EmbeddingTest : OpTest {
  testing::Bytes scratch;

  Workspace workspace(std::int64_t T) {
    OpLimits limits;
    limits.T = T;
    scratch.assign(ops->workspace_bytes(limits), std::byte{0x5a});
    return {scratch.data(), scratch.size()};
  }
};

TEST_F(EmbeddingTest, ForwardCopiesHeldRowsAndZeroesOthers) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t H : {1, 16, 43, 512}) {
      const std::int64_t T = 97;
      const HostTensor table = random_tensor(dtype, {kVocab, H}, "table"), ids = token_ids(T);
      testing::HostTensor out(dtype, {T, H}, 3);
      out.fill_value(9);
      ops->embedding_forward(*stream, out, table, ids, kBegin);
      int others = 0;
      for (std::int64_t t = 0; t < T; ++t) {
        const double id = ids.get(t);
        others += held(id) ? 0 : 1;
        for (std::int64_t h = 0; h < H; ++h) {
          ASSERT_EQ(out.get(t, h), held(id) ? table.get(static_cast<std::int64_t>(id) - kBegin, h) : 0.0);
        }
      }
      EXPECT_GT(others, 0);
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_F(EmbeddingTest, BackwardAddsInTokenOrder) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t H : {1, 16, 43, 512}) {
      const std::int64_t T = 97;
      const HostTensor dtable = random_tensor(DType::F32, {kVocab, H}, "dtable"), ids = token_ids(T);
      testing::HostTensor dout(dtype, {T, H}, 3);
      dout.fill_normal("dout");
      std::vector<float> expected;
      for (const double x : dtable.values()) expected.push_back(static_cast<float>(x));
      for (std::int64_t t = 0; t < T; ++t) {
        if (!held(ids.get(t))) continue;
        const auto row = static_cast<std::int64_t>(ids.get(t)) - kBegin;
        for (std::int64_t h = 0; h < H; ++h)
          expected[static_cast<std::size_t>(row * H + h)] += static_cast<float>(dout.get(t, h));
      }
      for (const int n : {1, 2, 3}) {
        const ThreadCount threads(n);
        const HostTensor sum = copy_of(dtable);
        ops->embedding_backward(*stream, workspace(T), sum, dout, ids, kBegin);
        ASSERT_EQ(std::memcmp(sum.data, expected.data(), sum.bytes()), 0) << name_of(dtype) << " H " << H << " " << n;
      }
    }
  }
}

// The backward is the transpose of the forward: <forward(table), dout> = <table, backward(dout)>, whose central
// difference in any entry is that entry's gradient.
TEST_F(EmbeddingTest, BackwardIsTheFiniteDifference) {
  const std::int64_t T = 41, H = 6;
  const HostTensor table = random_tensor(DType::F32, {kVocab, H}, "table"), ids = token_ids(T), out(DType::F32, {T, H}),
                   dout = random_tensor(DType::F32, {T, H}, "dout"), dtable(DType::F32, {kVocab, H});
  ops->embedding_backward(*stream, workspace(T), dtable, dout, ids, kBegin);
  const auto loss = [&](std::int64_t i, double at) {
    const HostTensor moved = copy_of(table);
    set(moved, i, at);
    ops->embedding_forward(*stream, out, moved, ids, kBegin);
    double sum = 0;
    for (std::int64_t j = 0; j < out.size(); ++j) sum += out.get(j) * dout.get(j);
    return sum;
  };
  for (std::int64_t i = 0; i < table.size(); ++i) ASSERT_NEAR((loss(i, 1) - loss(i, -1)) / 2, dtable.get(i), 1e-5);
}

TEST_F(EmbeddingTest, AShardWithoutRowsGivesZeros) {
  const HostTensor table(DType::F32, {0, 8}), ids = token_ids(5), out = random_tensor(DType::F32, {5, 8}, "out");
  ops->embedding_forward(*stream, out, table, ids, kBegin);
  ops->embedding_backward(*stream, {}, table, out, ids, kBegin);
  for (std::int64_t i = 0; i < out.size(); ++i) EXPECT_EQ(out.get(i), 0);
}

TEST_F(EmbeddingTest, RefusesWhatDoesNotFit) {
  const HostTensor table(DType::F32, {kVocab, 8}), ids = token_ids(5), out(DType::F32, {5, 8}),
                                                   half(DType::BF16, {5, 8});
  EXPECT_THROW(ops->embedding_forward(*stream, half, table, ids, 0), Error);
  EXPECT_THROW(ops->embedding_forward(*stream, out, table, token_ids(6), 0), Error);
  EXPECT_THROW(ops->embedding_forward(*stream, HostTensor(DType::F32, {5, 7}), table, ids, 0), Error);
  EXPECT_THROW(ops->embedding_backward(*stream, {}, HostTensor(DType::BF16, {kVocab, 8}), out, ids, 0), Error);
}

}  // namespace
}  // namespace upcycle
