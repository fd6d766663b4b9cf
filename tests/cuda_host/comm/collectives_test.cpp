#include <gtest/gtest.h>
#include <mpi.h>

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/trace.h"
#include "tests/cuda_host/comm/device_buffer.h"

// The collectives of tests/comm on the emulated GPU.
namespace upcycle::test {
namespace {

constexpr std::int64_t kSizes[] = {0, 1, 3, 257, 1000};

class NcclCollectives : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    enter(GetParam());
    gpu_ = std::make_unique<Gpu>();
    mesh_ = gpu_->mesh();
    group_ = mesh_.world.get();
    rank_ = group_->rank();
    size_ = group_->size();
    ASSERT_EQ(rank_, mpi_session().rank());
    ASSERT_EQ(size_, mpi_session().size());
  }
  void TearDown() override {
    mesh_ = {};
    gpu_.reset();
    EXPECT_EQ(emul::live_bytes(), 0u);
    enter({false, 1});
  }
  void wait(const Event& event) const { gpu_->stream->wait(event); }

  std::unique_ptr<Gpu> gpu_;
  Mesh mesh_;
  Communicator* group_ = nullptr;
  int rank_ = 0, size_ = 1;
};

// Whole numbers: the sum is exact in every type and every order.
TEST_P(NcclCollectives, AllReduce) {
  for (const DType dtype : kSummed) {
    for (const std::int64_t n : kSizes) {
      Buffer data(dtype, n), expected(dtype, n);
      data.fill(rank_, whole);
      for (std::int64_t i = 0; i < n; ++i) store_sum(dtype, expected.data(), i, i, size_, whole);
      const DeviceBuffer on_device(*gpu_, data);
      wait(group_->all_reduce(on_device.tensor()));
      EXPECT_TRUE(on_device.download() == expected) << name_of(dtype) << " n " << n;
    }
  }
}

// Sums that need rounding: near the exact one, and the same bits on all ranks.
TEST_P(NcclCollectives, AllReduceRounds) {
  const std::int64_t n = 1000;
  for (const auto& [dtype, epsilon] :
       {std::pair{DType::F32, 0x1p-24}, std::pair{DType::BF16, 0x1p-8}, std::pair{DType::F64, 0x1p-53}}) {
    Buffer data(dtype, n);
    data.fill(rank_, rough);
    const DeviceBuffer on_device(*gpu_, data);
    wait(group_->all_reduce(on_device.tensor()));
    Buffer sum = on_device.download();
    for (std::int64_t i = 0; i < n; ++i) {
      long double exact = 0, magnitudes = 0;
      for (int r = 0; r < size_; ++r) {
        Buffer one(dtype, 1);
        store(dtype, one.data(), 0, rough(r, i));
        exact += load(dtype, one.data(), 0);
        magnitudes += std::abs(load(dtype, one.data(), 0));
      }
      ASSERT_NEAR(load(dtype, sum.data(), i), exact, magnitudes * epsilon * size_) << name_of(dtype) << " " << i;
    }
    Buffer first = sum;
    ASSERT_EQ(MPI_Bcast(first.data(), static_cast<int>(first.bytes.size()), MPI_BYTE, 0, MPI_COMM_WORLD), MPI_SUCCESS);
    EXPECT_TRUE(sum == first) << name_of(dtype);
  }
}

TEST_P(NcclCollectives, ReduceScatter) {
  for (const DType dtype : kSummed) {
    for (const std::int64_t n : kSizes) {
      Buffer in(dtype, n * size_), expected(dtype, n), expected_in_place(dtype, n * size_);
      in.fill(rank_, whole);
      expected_in_place = in;
      for (std::int64_t i = 0; i < n; ++i) {
        store_sum(dtype, expected.data(), i, rank_ * n + i, size_, whole);
        store_sum(dtype, expected_in_place.data(), rank_ * n + i, rank_ * n + i, size_, whole);
      }
      const DeviceBuffer from(*gpu_, in), to(*gpu_, Buffer(dtype, n)), in_place(*gpu_, in);
      wait(group_->reduce_scatter(to.tensor(), from.tensor()));
      EXPECT_TRUE(to.download() == expected) << name_of(dtype) << " n " << n;
      EXPECT_TRUE(from.download() == in) << name_of(dtype) << " n " << n;
      wait(group_->reduce_scatter(in_place.tensor().slice_rows(rank_ * n, (rank_ + 1) * n), in_place.tensor()));
      EXPECT_TRUE(in_place.download() == expected_in_place) << name_of(dtype) << " n " << n << " in place";
    }
  }
}

TEST_P(NcclCollectives, AllGather) {
  for (const DType dtype : kAll) {
    for (const std::int64_t n : kSizes) {
      Buffer in(dtype, n), mixed(dtype, n * size_), expected(dtype, n * size_);
      in.fill(rank_, whole);
      for (std::int64_t i = 0; i < n * size_; ++i)
        store(dtype, expected.data(), i, whole(static_cast<int>(i / n), i % n));
      const DeviceBuffer from(*gpu_, in), to(*gpu_, mixed);
      wait(group_->all_gather(to.tensor(), from.tensor()));
      EXPECT_TRUE(to.download() == expected) << name_of(dtype) << " n " << n;
      // In place on some ranks, from elsewhere on others.
      const DeviceBuffer some(*gpu_, mixed);
      const Tensor own = some.tensor().slice_rows(rank_ * n, (rank_ + 1) * n);
      if (rank_ % 2 == 0 && n > 0) gpu_->copy(own, from.tensor());
      wait(group_->all_gather(some.tensor(), rank_ % 2 == 0 ? own : from.tensor()));
      EXPECT_TRUE(some.download() == expected) << name_of(dtype) << " n " << n << " in place";
    }
  }
}

// Rows from rank `from` to rank `to`.
using Rows = std::int64_t (*)(int from, int to);
struct Pattern {
  const char* name;
  Rows rows;
};
const Pattern kPatterns[] = {
    {"some pairs nothing, nothing to rank 1",
     [](int from, int to) { return to == 1 ? std::int64_t{0} : std::int64_t{(from * 3 + to * 5 + 2) % 7} * 11; }},
    {"all to rank 0", [](int from, int to) { return to == 0 ? std::int64_t{from + 3} : std::int64_t{0}; }},
    {"all from the last rank",
     [](int from, int) { return from == mpi_session().size() - 1 ? std::int64_t{5} : std::int64_t{0}; }},
    {"to itself only", [](int from, int to) { return from == to ? std::int64_t{4} : std::int64_t{0}; }},
    {"nothing", [](int, int) { return std::int64_t{0}; }},
};
double row_value(int from, int to, std::int64_t row, std::int64_t column) {
  return static_cast<double>((from * 31 + to * 17 + row * 5 + column) % 120);
}

TEST_P(NcclCollectives, AllToAllV) {
  for (const DType dtype : kAll) {
    for (const std::int64_t columns : {0, 1, 40}) {
      for (const auto& [name, rows] : kPatterns) {
        std::vector<std::int64_t> send, receive;
        for (int r = 0; r < size_; ++r) {
          send.push_back(rows(rank_, r));
          receive.push_back(rows(r, rank_));
        }
        // Two rows more than the counts say, on both sides: not sent, not written.
        const std::int64_t sent = std::accumulate(send.begin(), send.end(), std::int64_t{2});
        const std::int64_t received = std::accumulate(receive.begin(), receive.end(), std::int64_t{2});
        Buffer in(dtype, sent * columns), out(dtype, received * columns), expected(dtype, received * columns);
        std::int64_t at = 0;
        for (int to = 0; to < size_; ++to)
          for (std::int64_t row = 0; row < send[static_cast<std::size_t>(to)]; ++row)
            for (std::int64_t c = 0; c < columns; ++c) store(dtype, in.data(), at++, row_value(rank_, to, row, c));
        at = 0;
        for (int from = 0; from < size_; ++from)
          for (std::int64_t row = 0; row < receive[static_cast<std::size_t>(from)]; ++row)
            for (std::int64_t c = 0; c < columns; ++c)
              store(dtype, expected.data(), at++, row_value(from, rank_, row, c));
        const DeviceBuffer from(*gpu_, in), to(*gpu_, out);
        const Event event =
            group_->all_to_all_v(to.tensor(received, columns), receive, from.tensor(sent, columns), send);
        std::fill(send.begin(), send.end(), 99);  // the call has taken its counts
        std::fill(receive.begin(), receive.end(), 99);
        wait(event);
        EXPECT_TRUE(to.download() == expected) << name_of(dtype) << " columns " << columns << ": " << name;
      }
    }
  }
}

TEST_P(NcclCollectives, HostAgreement) {
  EXPECT_EQ(group_->max_of(rank_ == size_ - 1 ? 5.5 : -rank_), 5.5);
  EXPECT_EQ(group_->sum_of(rank_), size_ * (size_ - 1) / 2);
  EXPECT_EQ(group_->broadcast_text(rank_ == size_ - 1 ? "this" : "not this", size_ - 1), "this");
  std::string all;
  for (int r = 0; r < size_; ++r) all += fmt::format("rank {}\n", r);
  EXPECT_EQ(group_->gather_text(fmt::format("rank {}\n", rank_)), all);
  group_->barrier();
}

TEST_P(NcclCollectives, WrongCallsThrowBeforeTheySend) {
  const DeviceBuffer a(*gpu_, Buffer(DType::F32, 12 * size_)), b(*gpu_, Buffer(DType::F32, 12 * size_)),
      numbers(*gpu_, Buffer(DType::I32, 12));
  EXPECT_THROW(group_->all_reduce(numbers.tensor()), Error);
  EXPECT_THROW(group_->all_reduce(a.tensor(4 * size_, 3).slice_columns(0, 2)), Error);
  EXPECT_THROW(group_->reduce_scatter(b.tensor().slice_rows(0, 11), a.tensor()), Error);
  EXPECT_THROW(group_->all_gather(a.tensor(), b.tensor().slice_rows(0, 11)), Error);
  EXPECT_THROW(group_->broadcast_text("x", size_), Error);
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(size_), 1), few(static_cast<std::size_t>(size_) + 1);
  EXPECT_THROW(group_->all_to_all_v(b.tensor(), few, a.tensor(), few), Error);
  if (size_ > 1) {
    EXPECT_THROW(group_->all_to_all_v(a.tensor(), ones, a.tensor(), ones), Error);
  }
  // Memory that is not the device's: NCCL's own check, as an Error.
  std::vector<float> host(4);
  emul::options().quiet = true;
  if (size_ > 1) {
    EXPECT_THROW(group_->all_reduce(Tensor(host.data(), DType::F32, {4})), Error);
  }
  emul::options().quiet = false;
  // The group still works.
  const DeviceBuffer one(*gpu_, [] {
    Buffer x(DType::F32, 1);
    store(DType::F32, x.data(), 0, 1);
    return x;
  }());
  wait(group_->all_reduce(one.tensor()));
  EXPECT_EQ(load(DType::F32, one.download().data(), 0), size_);
}

TEST_P(NcclCollectives, RecordsEachCallAndAllocatesNothing) {
  Buffer zeros(DType::F32, 1000 * size_);
  zeros.fill(0, [](int, std::int64_t) { return 0.0; });
  const DeviceBuffer a(*gpu_, zeros), b(*gpu_, zeros);
  const Tensor part = b.tensor().slice_rows(0, 1000);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size_), 2);
  reset_trace_counters();
  const std::uint64_t allocations = device_allocation_count();
  wait(group_->all_reduce(a.tensor()));
  wait(group_->reduce_scatter(part, a.tensor()));
  wait(group_->all_gather(a.tensor(), part));
  wait(group_->all_to_all_v(b.tensor(), counts, a.tensor(), counts));
  gpu_->stream->synchronize();
  EXPECT_EQ(device_allocation_count(), allocations);
  const TraceCounters traced = trace_counters();
  const auto size = static_cast<std::uint64_t>(size_);
  EXPECT_EQ(traced.of("world", "all_reduce").bytes, 4000 * size);
  EXPECT_EQ(traced.of("world", "reduce_scatter").bytes, 4000 * size);
  EXPECT_EQ(traced.of("world", "all_gather").bytes, 4000u);
  EXPECT_EQ(traced.of("world", "all_to_all_v").bytes, 8 * size);
  for (const char* op : {"all_reduce", "reduce_scatter", "all_gather", "all_to_all_v"})
    EXPECT_EQ(traced.of("world", op).calls, 1u) << op;
  EXPECT_EQ(traced.last.op, "all_to_all_v");
  EXPECT_EQ(traced.last.sequence, 4u);
}

INSTANTIATE_TEST_SUITE_P(Modes, NcclCollectives, testing::ValuesIn(kModes));

}  // namespace
}  // namespace upcycle::test
