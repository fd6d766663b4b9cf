#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/cuda_error.h"
#include "core/host_array.h"
#include "core/staging.h"
#include "kernels/cuda/cuda_device.h"
#include "tests/cuda_host/emulation/runtime_internal.h"

// What the modes of the emulation promise: that work is delayed until it is waited for, that streams overtake one
// another, and that memory read too early or too late has wrong contents. And Staging, whose correctness depends on the
// waits.
namespace upcycle {
namespace {

struct DeferredStreams : ::testing::Test {
  emul::Options before = emul::options();
  std::unique_ptr<Device> device = make_cuda_device(0);
  std::unique_ptr<Stream> stream = device->make_stream();
  DeferredStreams() { emul::options().deferred = true; }
  ~DeferredStreams() override {
    stream->synchronize();
    emul::options() = before;
  }
};

struct OnDevice {
  Device& device;
  std::size_t count;
  float* data;
  OnDevice(Device& d, std::size_t n) : device(d), count(n), data(static_cast<float*>(d.allocate(n * sizeof(float)))) {}
  ~OnDevice() { device.release(data, count * sizeof(float)); }
};

TEST_F(DeferredStreams, PinnedMemoryIsNotANumberUntilItsCopyHasRun) {
  const OnDevice on_device(*device, 6);
  HostArray<float> from(*device, 6), to(*device, 6);
  for (std::size_t i = 0; i < 6; ++i) from[i] = static_cast<float>(i + 1);
  device->copy_from_host(*stream, on_device.data, from.data(), 6 * sizeof(float));
  device->copy_to_host(*stream, to.data(), on_device.data, 6 * sizeof(float));
  EXPECT_TRUE(std::isnan(to[0]) && std::isnan(to[5]));
  from[2] = 30;  // too early: the copy has not read it
  stream->synchronize();
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(to[i], i == 2 ? 30 : static_cast<float>(i + 1));
}

TEST_F(DeferredStreams, PageableSourcesAreReadBeforeTheCallReturns) {
  const OnDevice on_device(*device, 4);
  std::vector<float> from = {1, 2, 3, 4}, to(4);
  device->copy_from_host(*stream, on_device.data, from.data(), 4 * sizeof(float));
  from.assign(4, 9);
  device->copy_to_host(*stream, to.data(), on_device.data, 4 * sizeof(float));  // to pageable memory: waits
  EXPECT_EQ(to, (std::vector<float>{1, 2, 3, 4}));
}

TEST_F(DeferredStreams, RowsTravelBetweenPitches) {
  const OnDevice on_device(*device, 3 * 5);
  HostArray<float> from(*device, 3 * 2), to(*device, 3 * 4);
  for (std::size_t i = 0; i < 6; ++i) from[i] = static_cast<float>(i + 1);
  constexpr std::size_t kFloat = sizeof(float);
  device->copy_from_host(*stream, on_device.data, from.data(), {2 * kFloat, 3, 5 * kFloat, 2 * kFloat});
  device->copy_to_host(*stream, to.data(), on_device.data, {2 * kFloat, 3, 4 * kFloat, 5 * kFloat});
  stream->synchronize();
  for (std::size_t row = 0; row < 3; ++row)
    for (std::size_t j = 0; j < 4; ++j) EXPECT_EQ(to[row * 4 + j], j < 2 ? from[row * 2 + j] : 0) << row << " " << j;
}

// Of two streams without an event between them either can be ahead; with one the second is not.
TEST_F(DeferredStreams, PassOneAnotherUnlessOneWaits) {
  const std::unique_ptr<Stream> other = device->make_stream();
  const OnDevice between(*device, 1);
  HostArray<float> from(*device, 1), to(*device, 1);
  for (const bool wait : {true, false}) {
    int behind = 0;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
      emul::reseed(seed);
      from[0] = 0;
      device->copy_from_host(*stream, between.data, from.data(), sizeof(float));
      stream->synchronize();
      from[0] = 5;
      device->copy_from_host(*stream, between.data, from.data(), sizeof(float));
      if (wait) other->wait(stream->record());
      device->copy_to_host(*other, to.data(), between.data, sizeof(float));
      other->synchronize();
      stream->synchronize();
      behind += to[0] == 5 ? 1 : 0;
    }
    if (wait)
      EXPECT_EQ(behind, 40);
    else
      EXPECT_TRUE(behind > 5 && behind < 35) << behind;
  }
}

TEST_F(DeferredStreams, StagingCarriesMoreThanItsRingBothWays) {
  constexpr std::int64_t kRows = 37, kColumns = 10, kStride = 13;
  const OnDevice room(*device, kRows * kStride);
  Tensor t(room.data, DType::F32, {kRows, kColumns});
  t.row_stride = kStride;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    emul::reseed(seed);
    Staging staging(*device, *stream, 5 * kColumns * sizeof(float));
    staging.write(t, [&](void* host, std::int64_t row, std::int64_t rows) {
      for (std::int64_t i = 0; i < rows * kColumns; ++i)
        static_cast<float*>(host)[i] = static_cast<float>(row * kColumns + i + static_cast<std::int64_t>(seed));
    });
    std::int64_t seen = 0;
    staging.read(t, [&](const void* host, std::int64_t row, std::int64_t rows) {
      EXPECT_EQ(row, seen);
      seen += rows;
      for (std::int64_t i = 0; i < rows * kColumns; ++i)
        ASSERT_EQ(static_cast<const float*>(host)[i],
                  static_cast<float>(row * kColumns + i + static_cast<std::int64_t>(seed)));
    });
    EXPECT_EQ(seen, kRows);
  }
}

TEST_F(DeferredStreams, CountersSayWhatTheBackendAskedFor) {
  const emul::Counters start = emul::counters();
  const OnDevice on_device(*device, 4);
  HostArray<float> pinned(*device, 4);
  std::vector<float> pageable(4);
  device->copy_to_host(*stream, pinned.data(), on_device.data, 4 * sizeof(float));
  stream->synchronize();
  device->copy_to_host(*stream, pageable.data(), on_device.data, 4 * sizeof(float));
  const emul::Counters& now = emul::counters();
  EXPECT_EQ(now.device_allocations - start.device_allocations, 1u);
  EXPECT_EQ(now.host_allocations - start.host_allocations, 1u);
  EXPECT_EQ(now.copies - start.copies, 2u);
  EXPECT_EQ(now.copies_that_wait - start.copies_that_wait, 1u);
  EXPECT_EQ(now.stream_waits - start.stream_waits, 2u);  // for the new memory to be clear, and the one above
}

using GuardDeathTest = DeferredStreams;
TEST_F(GuardDeathTest, HostCodeThatTouchesDeviceMemoryDies) {
  const OnDevice on_device(*device, 4);
  volatile float* data = on_device.data;
  EXPECT_EQ(*data, 0);
  EXPECT_DEATH(
      {
        emul::set_guard(true);
        *data = 1;
      },
      "");
  EXPECT_DEATH(
      {
        HostArray<float> pinned(*device, 4);
        device->copy_to_host(*stream, pinned.data(), on_device.data, 4 * sizeof(float));
      },
      "a copy that has not run still uses the memory");
}

}  // namespace
}  // namespace upcycle
