#include <gtest/gtest.h>

#include "tests/cuda_host/comm/device_buffer.h"

// What waits for what: streams of the emulated GPU hold their work back and pass one another at random, so that each
// wait that is missing shows with some seed.
namespace upcycle::test {
namespace {

constexpr std::uint64_t kSeeds[] = {1, 2, 3, 4, 5};

Buffer filled(std::int64_t n, int salt) {
  Buffer b(DType::F32, n);
  b.fill(mpi_session().rank(), [salt](int rank, std::int64_t i) { return whole(rank, i + 1000 * salt); });
  return b;
}
Buffer sum_of(std::int64_t n, int salt) {
  Buffer b(DType::F32, n);
  const auto input = [salt](int rank, std::int64_t i) { return whole(rank, i + 1000 * salt); };
  for (std::int64_t i = 0; i < n; ++i) store_sum(DType::F32, b.data(), i, i, mpi_session().size(), input);
  return b;
}

class NcclOrder : public testing::TestWithParam<std::uint64_t> {
 protected:
  void SetUp() override { enter({true, GetParam()}); }
  void TearDown() override { enter({false, 1}); }
};

// Ops before the call write what it sends; ops after the wait read what it brought.
TEST_P(NcclOrder, ACallIsOrderedBetweenTheOpsAroundIt) {
  const Gpu gpu;
  const Mesh mesh = gpu.mesh();
  const std::int64_t n = 301;
  const DeviceBuffer in(gpu, filled(n, 0)), data(gpu, Buffer(DType::F32, n)), out(gpu, Buffer(DType::F32, n));
  for (int again = 0; again < 8; ++again) {
    gpu.copy(data.tensor(), in.tensor());
    gpu.stream->wait(mesh.world->all_reduce(data.tensor()));
    gpu.copy(out.tensor(), data.tensor());
  }
  EXPECT_TRUE(out.download() == sum_of(n, 0));
}

// As dependent kernels on a stream: the second call reads what the first one writes.
TEST_P(NcclOrder, CallsOfOneGroupFollowEachOther) {
  const Gpu gpu;
  const Mesh mesh = gpu.mesh();
  const int rank = mesh.rank, size = mesh.world->size();
  const std::int64_t n = 55;
  const DeviceBuffer data(gpu, filled(n * size, 0));
  const Tensor mine = data.tensor().slice_rows(rank * n, (rank + 1) * n);
  mesh.world->reduce_scatter(mine, data.tensor());
  gpu.stream->wait(mesh.world->all_gather(data.tensor(), mine));
  EXPECT_TRUE(data.download() == sum_of(n * size, 0));

  // The part that stays on this rank too.
  const DeviceBuffer from(gpu, filled(n * size, 3)), to(gpu, Buffer(DType::F32, n * size));
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(size), n);
  mesh.world->all_reduce(from.tensor());
  gpu.stream->wait(mesh.world->all_to_all_v(to.tensor(n * size, 1), counts, from.tensor(n * size, 1), counts));
  Buffer expected(DType::F32, n * size);
  expected.fill(0, [&](int, std::int64_t i) {
    double sum = 0;
    for (int r = 0; r < size; ++r) sum += whole(r, rank * n + i % n + 3000);
    return sum;
  });
  EXPECT_TRUE(to.download() == expected);
}

// An event is waited for long after: the points that a stream keeps, and a group's calls, have come round.
TEST_P(NcclOrder, AnEventIsWaitedForLate) {
  const Gpu gpu;
  const Mesh mesh = gpu.mesh();
  const std::int64_t n = 3;
  std::vector<std::unique_ptr<DeviceBuffer>> data, out;
  for (int i = 0; i < 300; ++i) {
    data.push_back(std::make_unique<DeviceBuffer>(gpu, filled(n, i)));
    if (i < 5) out.push_back(std::make_unique<DeviceBuffer>(gpu, Buffer(DType::F32, n)));
  }
  std::vector<Event> events;
  for (const auto& d : data) events.push_back(mesh.world->all_reduce(d->tensor()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    gpu.stream->wait(events[i]);
    gpu.stream->wait(events[i]);  // waiting twice is allowed
    gpu.copy(out[i]->tensor(), data[i]->tensor());
  }
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(out[i]->download() == sum_of(n, static_cast<int>(i))) << i;
  gpu.stream->wait(events.back());
  for (std::size_t i = 0; i < data.size(); ++i) EXPECT_TRUE(data[i]->download() == sum_of(n, static_cast<int>(i))) << i;
}

// Groups have streams of their own; ranks wait for them in opposite orders.
TEST_P(NcclOrder, GroupsRunBesideEachOther) {
  const Gpu gpu;
  const Mesh mesh = gpu.mesh();
  const std::int64_t n = 700;
  const DeviceBuffer a(gpu, filled(n, 1)), b(gpu, filled(n, 2));
  for (int again = 0; again < 3; ++again) {
    const DeviceBuffer x(gpu, filled(n, 1)), y(gpu, filled(n, 2));
    const Event first = mesh.world->all_reduce(x.tensor()), second = mesh.dp->all_reduce(y.tensor());
    gpu.stream->wait(mesh.rank % 2 == 0 ? first : second);
    gpu.copy(mesh.rank % 2 == 0 ? a.tensor() : b.tensor(), mesh.rank % 2 == 0 ? x.tensor() : y.tensor());
    gpu.stream->wait(mesh.rank % 2 == 0 ? second : first);
    gpu.copy(mesh.rank % 2 == 0 ? b.tensor() : a.tensor(), mesh.rank % 2 == 0 ? y.tensor() : x.tensor());
    EXPECT_TRUE(a.download() == sum_of(n, 1));
    EXPECT_TRUE(b.download() == sum_of(n, 2));
  }
}

// The first rank's ops go on, and end, while its transfer waits for a rank that has not called yet.
TEST_P(NcclOrder, OpsRunUnderATransfer) {
  const Gpu gpu;
  const Mesh mesh = gpu.mesh();
  const std::int64_t n = 64;
  const DeviceBuffer data(gpu, filled(n, 0)), from(gpu, filled(n, 1)), to(gpu, Buffer(DType::F32, n));
  const DeviceBuffer first(gpu, filled(n, 2));
  gpu.stream->wait(mesh.world->all_reduce(first.tensor()));  // in which NCCL connects the ranks
  gpu.stream->synchronize();
  Event event;
  const auto call = [&] { event = mesh.world->all_reduce(data.tensor()); };
  if (mesh.rank == 0) {
    call();
    gpu.copy(to.tensor(), from.tensor());
    EXPECT_TRUE(to.download() == filled(n, 1));
  }
  host_world().barrier();
  if (mesh.rank != 0) call();
  gpu.stream->wait(event);
  EXPECT_TRUE(data.download() == sum_of(n, 0));
}

TEST_P(NcclOrder, TheHostMayWaitForAnEvent) {
  const Gpu gpu;
  Event event;
  const DeviceBuffer data(gpu, filled(9, 0)), out(gpu, Buffer(DType::F32, 9));
  {
    const Mesh mesh = gpu.mesh();
    event = mesh.world->all_reduce(data.tensor());
    test_stream().wait(event);  // a CPU stream: on return it is done
    gpu.copy(out.tensor(), data.tensor());
    EXPECT_TRUE(out.download() == sum_of(9, 0));
  }
  test_stream().wait(event);  // an event may outlive its group
}

TEST_P(NcclOrder, TheEndOfAGroupFinishesWhatIsUnderWay) {
  const Gpu gpu;
  const DeviceBuffer data(gpu, filled(200, 0));
  {
    const Mesh mesh = gpu.mesh();
    for (int i = 0; i < 4; ++i) mesh.edp->all_reduce(data.tensor());  // all ranks here, and the first group to end
  }
  Buffer expected(DType::F32, 200);
  expected.fill(0, [](int, std::int64_t i) {
    const int size = mpi_session().size();
    double sum = 0;
    for (int r = 0; r < size; ++r) sum += whole(r, i);
    return sum * size * size * size;
  });
  EXPECT_TRUE(data.download() == expected);
}

// Proof that these tests can fail: without the wait some seed reads the tensor before its sum is there.
TEST(NcclOrderTests, SeeAWaitThatIsMissing) {
  if (mpi_session().size() == 1) return;  // a group of one has nothing to wait for
  int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    enter({true, seed});
    const Gpu gpu;
    const Mesh mesh = gpu.mesh();
    const DeviceBuffer data(gpu, filled(33, 0)), out(gpu, Buffer(DType::F32, 33));
    const Event event = mesh.world->all_reduce(data.tensor());
    gpu.copy(out.tensor(), data.tensor());
    wrong += out.download() == sum_of(33, 0) ? 0 : 1;
    gpu.stream->wait(event);
    EXPECT_TRUE(data.download() == sum_of(33, 0));
  }
  enter({false, 1});
  EXPECT_GT(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, NcclOrder, testing::ValuesIn(kSeeds));

}  // namespace
}  // namespace upcycle::test
