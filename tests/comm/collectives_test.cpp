#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/trace.h"
#include "parallel/comm/comm_mpi.h"
#include "tests/comm/group.h"
#include "tests/comm/inputs.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {
namespace {

constexpr std::int64_t kSizes[] = {0, 1, 2, 3, 17, 64, 257, 1000, 6001};

// The default limits, and ones with which all but the smallest sizes take many rounds.
std::vector<MpiLimits> cuts() {
  return {MpiLimits{}, MpiLimits{.piece_bytes = 64, .scratch_bytes = 1 << 20, .message_bytes = 104, .small_bytes = 16},
          MpiLimits{.piece_bytes = 4096, .scratch_bytes = 4096, .message_bytes = 1 << 30, .small_bytes = 0}};
}

class Collectives : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    group_ = make_test_group("test", cuts()[static_cast<std::size_t>(GetParam())]);
    rank_ = group_->rank();
    size_ = group_->size();
    ASSERT_EQ(rank_, mpi_session().rank());
    ASSERT_EQ(size_, mpi_session().size());
  }

  // Rank 0's bytes on every rank, moved by MPI itself.
  void expect_same_on_all_ranks(Buffer& b) {
    Buffer first = b;
    ASSERT_EQ(MPI_Bcast(first.data(), static_cast<int>(first.bytes.size()), MPI_BYTE, 0, MPI_COMM_WORLD), MPI_SUCCESS);
    EXPECT_TRUE(b == first);
  }

  std::unique_ptr<Communicator> group_;
  int rank_ = 0, size_ = 1;
};

TEST_P(Collectives, AllReduce) {
  for (const DType dtype : kSummed) {
    for (const std::int64_t n : kSizes) {
      Buffer data(dtype, n), expected(dtype, n);
      data.fill(rank_, rough);
      for (std::int64_t i = 0; i < n; ++i) store_sum(dtype, expected.data(), i, i, size_, rough);
      wait(group_->all_reduce(data.tensor()));
      EXPECT_TRUE(data == expected) << name_of(dtype) << " n " << n;
      expect_same_on_all_ranks(data);
    }
  }
}

TEST_P(Collectives, AllReduceAgreesWithMpi) {
  for (const std::int64_t n : kSizes) {
    Buffer ours(DType::F32, n), theirs(DType::F32, n);
    ours.fill(rank_, whole);
    theirs.fill(rank_, whole);
    wait(group_->all_reduce(ours.tensor()));
    ASSERT_EQ(MPI_Allreduce(MPI_IN_PLACE, theirs.data(), static_cast<int>(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD),
              MPI_SUCCESS);
    EXPECT_TRUE(ours == theirs) << n;
  }
}

TEST_P(Collectives, ReduceScatter) {
  for (const DType dtype : kSummed) {
    for (const std::int64_t n : kSizes) {
      Buffer in(dtype, n * size_), out(dtype, n), expected(dtype, n);
      in.fill(rank_, rough);
      const Buffer before = in;
      for (std::int64_t i = 0; i < n; ++i) store_sum(dtype, expected.data(), i, rank_ * n + i, size_, rough);
      wait(group_->reduce_scatter(out.tensor(), in.tensor()));
      EXPECT_TRUE(out == expected) << name_of(dtype) << " n " << n;
      EXPECT_TRUE(in == before) << name_of(dtype) << " n " << n;
      // Into its own part of the input: the parts of other ranks stay.
      Buffer in_place = before;
      wait(group_->reduce_scatter(in_place.tensor().slice_rows(rank_ * n, (rank_ + 1) * n), in_place.tensor()));
      Buffer expected_in_place = before;
      if (n > 0) {
        std::memcpy(expected_in_place.bytes.data() + static_cast<std::size_t>(rank_ * n) * size_of(dtype),
                    expected.data(), static_cast<std::size_t>(n) * size_of(dtype));
      }
      EXPECT_TRUE(in_place == expected_in_place) << name_of(dtype) << " n " << n << " in place";
    }
  }
}

TEST_P(Collectives, ReduceScatterAgreesWithMpi) {
  for (const std::int64_t n : kSizes) {
    Buffer in(DType::F64, n * size_), ours(DType::F64, n), theirs(DType::F64, n);
    in.fill(rank_, whole);
    wait(group_->reduce_scatter(ours.tensor(), in.tensor()));
    ASSERT_EQ(
        MPI_Reduce_scatter_block(in.data(), theirs.data(), static_cast<int>(n), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD),
        MPI_SUCCESS);
    EXPECT_TRUE(ours == theirs) << n;
  }
}

TEST_P(Collectives, AllGather) {
  for (const DType dtype : kAll) {
    for (const std::int64_t n : kSizes) {
      Buffer in(dtype, n), out(dtype, n * size_), expected(dtype, n * size_);
      in.fill(rank_, whole);
      for (std::int64_t i = 0; i < n * size_; ++i) {
        store(dtype, expected.data(), i, whole(static_cast<int>(i / n), i % n));
      }
      wait(group_->all_gather(out.tensor(), in.tensor()));
      EXPECT_TRUE(out == expected) << name_of(dtype) << " n " << n;
      // In place on some ranks, from elsewhere on others.
      Buffer mixed(dtype, n * size_);
      const Tensor own = mixed.tensor().slice_rows(rank_ * n, (rank_ + 1) * n);
      if (rank_ % 2 == 0 && n > 0) std::memcpy(own.data, in.data(), own.bytes());
      wait(group_->all_gather(mixed.tensor(), rank_ % 2 == 0 ? own : in.tensor()));
      EXPECT_TRUE(mixed == expected) << name_of(dtype) << " n " << n << " in place";
    }
  }
}

// Rows from rank `from` to rank `to`: some pairs exchange nothing, and rank 1 receives nothing.
std::int64_t rows_between(int from, int to, int scale) {
  return to == 1 ? 0 : static_cast<std::int64_t>((from * 3 + to * 5 + 2) % 7) * scale;
}
double row_value(int from, int to, std::int64_t row, std::int64_t column) {
  return static_cast<double>((from * 31 + to * 17 + row * 5 + column) % 120);
}

TEST_P(Collectives, AllToAllV) {
  for (const DType dtype : kAll) {
    for (const std::int64_t columns : {0, 1, 3, 40}) {
      for (const int scale : {0, 1, 37}) {
        std::vector<std::int64_t> send, receive;
        for (int r = 0; r < size_; ++r) {
          send.push_back(rows_between(rank_, r, scale));
          receive.push_back(rows_between(r, rank_, scale));
        }
        // Two rows more than the counts say, on both sides: not sent, not written.
        const std::int64_t sent = std::accumulate(send.begin(), send.end(), std::int64_t{2});
        const std::int64_t received = std::accumulate(receive.begin(), receive.end(), std::int64_t{2});
        Buffer in(dtype, sent * columns), out(dtype, received * columns), expected(dtype, received * columns);
        std::int64_t at = 0;
        for (int to = 0; to < size_; ++to) {
          for (std::int64_t row = 0; row < send[static_cast<std::size_t>(to)]; ++row) {
            for (std::int64_t c = 0; c < columns; ++c) store(dtype, in.data(), at++, row_value(rank_, to, row, c));
          }
        }
        at = 0;
        for (int from = 0; from < size_; ++from) {
          for (std::int64_t row = 0; row < receive[static_cast<std::size_t>(from)]; ++row) {
            for (std::int64_t c = 0; c < columns; ++c) {
              store(dtype, expected.data(), at++, row_value(from, rank_, row, c));
            }
          }
        }
        wait(group_->all_to_all_v(out.tensor(received, columns), receive, in.tensor(sent, columns), send));
        EXPECT_TRUE(out == expected) << name_of(dtype) << " columns " << columns << " scale " << scale;
      }
    }
  }
}

TEST_P(Collectives, HostAgreement) {
  EXPECT_EQ(group_->max_of(rank_ == size_ - 1 ? 5.5 : -rank_), 5.5);
  EXPECT_EQ(group_->max_of(-1.0 - rank_), -1.0);
  EXPECT_TRUE(std::isnan(group_->max_of(rank_ == 0 ? NAN : 1e300)));
  EXPECT_TRUE(std::isnan(group_->max_of(rank_ == size_ - 1 ? NAN : 1e300)));
  double expected = rough(0, 0);
  for (int r = 1; r < size_; ++r) expected += rough(r, 0);
  EXPECT_EQ(group_->sum_of(rough(rank_, 0)), expected);
  for (int root = 0; root < size_; ++root) {
    const std::string long_text(5000, static_cast<char>('a' + root));
    EXPECT_EQ(group_->broadcast_text(rank_ == root ? long_text : "not this", root), long_text);
    EXPECT_EQ(group_->broadcast_text(rank_ == root ? "" : "nor this", root), "");
  }
  std::string all;
  for (int r = 0; r < size_; ++r) all += r == 1 ? "" : fmt::format("rank {}\n", r);
  EXPECT_EQ(group_->gather_text(rank_ == 1 ? "" : fmt::format("rank {}\n", rank_)), all);
  EXPECT_EQ(group_->gather_text(""), "");
}

// No rank leaves a barrier before the last one has arrived.
TEST_P(Collectives, Barrier) {
  for (int late = 0; late < size_; ++late) {
    group_->barrier();
    if (rank_ == late) usleep(20000);
    // One clock: all ranks of these tests run on one machine. (MPI_Wtime counts from each rank's own start.)
    const std::int64_t came = std::chrono::steady_clock::now().time_since_epoch().count();
    group_->barrier();
    const std::int64_t left = std::chrono::steady_clock::now().time_since_epoch().count();
    std::int64_t last_came = 0;
    ASSERT_EQ(MPI_Allreduce(&came, &last_came, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD), MPI_SUCCESS);
    EXPECT_GE(left, last_came);
  }
}

TEST_P(Collectives, WrongCallsThrowBeforeTheySend) {
  Buffer a(DType::F32, 12 * size_), b(DType::F32, 12 * size_), half(DType::BF16, 12), whole_numbers(DType::I32, 12);
  const Tensor strided = a.tensor(4 * size_, 3).slice_columns(0, 2);
  EXPECT_THROW(group_->all_reduce(whole_numbers.tensor()), Error);
  EXPECT_THROW(group_->all_reduce(strided), Error);
  EXPECT_THROW(group_->all_reduce(Tensor(nullptr, DType::F32, {4})), Error);
  EXPECT_THROW(group_->reduce_scatter(b.tensor().slice_rows(0, 11), a.tensor()), Error);
  EXPECT_THROW(group_->reduce_scatter(half.tensor(), a.tensor()), Error);
  EXPECT_THROW(group_->all_gather(a.tensor(), b.tensor().slice_rows(0, 11)), Error);
  EXPECT_THROW(group_->all_gather(a.tensor(), half.tensor()), Error);
  if (size_ > 1) {
    const int other = (rank_ + 1) % size_;
    const Tensor elsewhere = a.tensor().slice_rows(12 * other, 12 * other + 12);
    EXPECT_THROW(group_->all_gather(a.tensor(), elsewhere), Error);
    EXPECT_THROW(group_->reduce_scatter(elsewhere, a.tensor()), Error);
    const std::vector<std::int64_t> ones(static_cast<std::size_t>(size_), 1);
    EXPECT_THROW(group_->all_to_all_v(a.tensor(), ones, a.tensor(), ones), Error);
  }
  EXPECT_THROW(group_->broadcast_text("x", -1), Error);
  EXPECT_THROW(group_->broadcast_text("x", size_), Error);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size_), 1), more = counts, negative = counts, few = counts;
  more.back() = 12 * size_;
  negative.front() = -1;
  few.push_back(0);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(), counts, a.tensor(), more), Error);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(), more, a.tensor(), counts), Error);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(), negative, a.tensor(), negative), Error);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(), few, a.tensor(), few), Error);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(4 * size_, 3), counts, a.tensor(6 * size_, 2), counts), Error);
  // The group still works.
  EXPECT_EQ(group_->sum_of(1), size_);
}

TEST_P(Collectives, RecordsEachCallAndAllocatesNothing) {
  Buffer a(DType::F32, 1000 * size_), b(DType::F32, 1000 * size_);
  const Tensor part = b.tensor().slice_rows(0, 1000);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size_), 2);
  reset_trace_counters();
  const std::uint64_t allocations = device_allocation_count();
  a.fill(rank_, whole);
  wait(group_->all_reduce(a.tensor()));
  wait(group_->reduce_scatter(part, a.tensor()));
  wait(group_->all_gather(a.tensor(), part));
  wait(group_->all_to_all_v(b.tensor(), counts, a.tensor(), counts));
  group_->barrier();
  group_->max_of(1);
  EXPECT_EQ(device_allocation_count(), allocations);
  const TraceCounters traced = trace_counters();
  const auto size = static_cast<std::uint64_t>(size_);
  EXPECT_EQ(traced.of("test", "all_reduce").bytes, 4000 * size);
  EXPECT_EQ(traced.of("test", "reduce_scatter").bytes, 4000 * size);
  EXPECT_EQ(traced.of("test", "all_gather").bytes, 4000u);
  EXPECT_EQ(traced.of("test", "all_to_all_v").bytes, 8 * size);
  for (const char* op : {"all_reduce", "reduce_scatter", "all_gather", "all_to_all_v", "barrier", "max_of"}) {
    EXPECT_EQ(traced.of("test", op).calls, 1u) << op;
  }
  EXPECT_EQ(traced.last.op, "max_of");
  EXPECT_EQ(traced.last.sequence, 6u);
}

INSTANTIATE_TEST_SUITE_P(Cuts, Collectives, testing::Values(0, 1, 2));

// More than one round of the default limits, with a ragged end.
TEST(LargeCollectives, TakeSeveralRounds) {
  const auto group = make_test_group("test");
  const std::int64_t n = (std::int64_t{2} << 20) / 4 * 3 + 7;  // a part: 1.5 pieces of 1 MiB
  const int rank = group->rank(), size = group->size();
  Buffer data(DType::F32, n * size), part(DType::F32, n), expected(DType::F32, n * size);
  data.fill(rank, rough);
  for (std::int64_t i = 0; i < n * size; ++i) store_sum(DType::F32, expected.data(), i, i, size, rough);
  wait(group->reduce_scatter(part.tensor(), data.tensor()));
  EXPECT_EQ(std::memcmp(part.data(), expected.tensor().slice_rows(rank * n, rank * n + n).data, part.tensor().bytes()),
            0);
  wait(group->all_reduce(data.tensor()));
  EXPECT_TRUE(data == expected);
}

}  // namespace
}  // namespace upcycle::test
