#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/trace.h"
#include "parallel/train/offload.h"
#include "parallel/train/step.h"
#include "tests/cuda_host/ranks/schedule.h"
#include "tests/cuda_host/ranks/whole_state.h"
#include "tests/parity_mpi/models.h"

// Several AdamW steps on ranks with a GPU each: the CPU's weights, the same bits every time, and what a step may not
// do.
namespace upcycle::test {
namespace {

// Experts over all ranks; on four, tp 2 with them too.
Parallelism mixed_layout() {
  const int world = mpi_session().size();
  if (world == 1) return {};
  return {2, world, 1};
}

Config run_config(const char* dtype) {
  Switches s;
  s.start = Start::SharedExpert;
  s.microbatches = 2;
  s.chunks = 3;
  Config c = config_of(s);
  c.dtype = dtype;
  c.train.lr = 1e-3;
  c.train.schedule = "constant";
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 2 * mpi_session().size();
  return c;
}

FixedSequences data_of(const Config& c) {
  return random_sequences(4 * c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 7);
}

struct Ran {
  std::vector<double> losses, norms;
  TrainedState state;
};
Ran run(const Rig& rig, const Config& c, const Mesh& mesh, const FixedSequences& data, OffloadSizes sizes = {}) {
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops, rig.host_ops.get());
  if (t.optimizer.offload != nullptr) t.optimizer.offload = make_offload(t.optimizer, t.memory, *rig.host_ops, sizes);
  random_fill()(t);
  Ran r;
  for (int i = 0; i < 3; ++i) {
    const StepResult result = train_step(t, data.source());
    r.losses.push_back(result.loss);
    r.norms.push_back(result.grad_norm);
    check_replicas(t.optimizer, t.memory);
  }
  r.state = whole_state(t);
  return r;
}

TEST(GpuRun, ThreeStepsEndWithTheCpusWeights) {
  const Rig gpu, cpu = cpu_rig();
  const Config c = run_config("fp32");
  const FixedSequences data = data_of(c);
  const Mesh on_gpu = make_test_mesh(gpu, mixed_layout()), on_cpu = make_test_mesh(cpu, mixed_layout());
  const Ran got = run(gpu, c, on_gpu, data), want = run(cpu, c, on_cpu, data);
  for (std::size_t i = 0; i < want.losses.size(); ++i) {
    EXPECT_NEAR(got.losses[i], want.losses[i], 1e-5 * want.losses[i]) << "step " << i;
    EXPECT_NEAR(got.norms[i], want.norms[i], 1e-5 * want.norms[i]) << "step " << i;
  }
  // Adam makes whole steps of the rounding of gradients that are all but zero.
  expect_near_masters(got.state, want.state, 1e-4, 1e-7);
  EXPECT_GT(distance(want.state.parameters.at("lm_head.weight").m, std::vector<float>(33 * 20)), 0);
}

void expect_same_run(const char* dtype, const std::vector<std::uint64_t>& seeds) {
  const Rig rig;
  const Config c = run_config(dtype);
  const FixedSequences data = data_of(c);
  const Mesh mesh = make_test_mesh(rig, mixed_layout());
  const Ran eager = run(rig, c, mesh, data);
  for (const std::uint64_t seed : seeds) {
    SCOPED_TRACE(fmt::format("{}, seed {}", dtype, seed));
    const DeferredStreams deferred(seed);
    const Ran again = run(rig, c, mesh, data);
    EXPECT_EQ(again.losses, eager.losses);
    EXPECT_EQ(again.norms, eager.norms);
    expect_same_state(again.state, eager.state);
  }
}

TEST(GpuRun, HasTheSameBitsWheneverItsStreamsRun) { expect_same_run("bf16", {1}); }
TEST(FullGpuRun, HasTheSameBitsWheneverItsStreamsRun) {
  for (const char* dtype : {"fp32", "bf16"}) expect_same_run(dtype, {1, 2, 3});
}

// With masters and moments in host memory, whenever streams run and however large the blocks. `rounded`: gradients and
// moments in bf16 too.
TEST(GpuRun, OffloadedHasTheSameBits) {
  const Rig rig;
  for (const auto& [dtype, rounded] : {std::pair{"fp32", false}, {"bf16", false}, {"bf16", true}}) {
    SCOPED_TRACE(fmt::format("{}{}", dtype, rounded ? ", rounded" : ""));
    Config c = run_config(dtype);
    c.device = "cuda";
    const FixedSequences data = data_of(c);
    const Mesh mesh = make_test_mesh(rig, mixed_layout());
    if (rounded) {
      c.train.gradient_dtype = c.train.moment_dtype = "bf16";
      if (mesh.layout.dp > 1) c.train.zero_stage = 2;
    }
    const Ran want = run(rig, c, mesh, data);
    c.train.optimizer_offload = true;
    for (const OffloadSizes sizes : {OffloadSizes{}, OffloadSizes{64, 3}}) {
      if (rounded && sizes.block > 64) continue;
      const DeferredStreams deferred(sizes.slots);
      const Ran got = run(rig, c, mesh, data, sizes);
      EXPECT_EQ(got.losses, want.losses);
      EXPECT_EQ(got.norms, want.norms);
      expect_same_state(got.state, want.state);
    }
  }
}

// Counts the waits of the host for a stream that find work to be done.
class HostWaits final : public Progress {
 public:
  explicit HostWaits(Stream& stream) : stream_(stream) { stream_.attach(*this); }
  ~HostWaits() override { stream_.detach(*this); }
  void poll() override {}
  void finish(std::uint64_t) override {}
  void wait_begins() override { ++count; }
  std::int64_t count = 0;

 private:
  Stream& stream_;
};

const std::set<std::string> kOnDevice = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all_v"};

// No allocation; the host waits for a layer's expert counts, once a microbatch, recomputed or not (once a round more
// where a layer works in rounds), and once for the numbers that the step reports.
class GpuStepCounts : public ::testing::TestWithParam<Switches> {};

TEST_P(GpuStepCounts, NoAllocationAndNoOtherWait) {
  const Rig rig;
  Config c = config_of(GetParam());
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 2 * mpi_session().size();
  const FixedSequences data = data_of(c);
  const Parallelism layout = c.model.is_moe() ? mixed_layout() : Parallelism{mixed_layout().tp, 1, 1};
  const Mesh mesh = make_test_mesh(rig, layout);
  const DeferredStreams deferred(1);
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  random_fill()(t);
  for (int i = 0; i < 2; ++i) (void)train_step(t, data.source());

  const std::int64_t microbatches = 2 * mesh.layout.tp;  // of a dp rank
  std::int64_t layers = 0;
  for (std::int64_t l = 0; l < c.model.num_hidden_layers; ++l) layers += c.model.is_moe_layer(l) ? 1 : 0;
  const std::uint64_t arenas = device_allocation_count();
  const emul::Counters before = emul::counters();
  HostWaits polled(*rig.stream);
  reset_trace_counters();
  (void)train_step(t, data.source());
  const emul::Counters& after = emul::counters();
  EXPECT_EQ(device_allocation_count(), arenas);
  EXPECT_EQ(after.device_allocations, before.device_allocations);
  EXPECT_EQ(after.host_allocations, before.host_allocations);
  EXPECT_EQ(after.device_waits, before.device_waits);
  EXPECT_EQ(after.copies_that_wait, before.copies_that_wait);
  EXPECT_EQ(after.stream_waits + after.event_waits, before.stream_waits + before.event_waits);  // none besides
  // A collective is one launch, none where a dispatch has nothing for other ranks, and no thread is made for it.
  std::uint64_t calls = 0, dispatches = 0;
  for (const CollectiveCount& count : trace_counters().counts)
    for (const Communicator* group : {mesh.tp.get(), mesh.dp.get(), mesh.ep.get(), mesh.edp.get()})
      if (group->size() > 1 && count.group == group->name() && kOnDevice.contains(count.op))
        (count.op == "all_to_all_v" ? dispatches : calls) += count.calls;
  const std::uint64_t launches = after.nccl_launches - before.nccl_launches;
  EXPECT_GE(launches, calls);
  EXPECT_LE(launches, calls + dispatches);
  EXPECT_EQ(calls > 0, mpi_session().size() > 1);
  EXPECT_EQ(after.nccl_threads, 0u);
  // Over NCCL a look at how its transfers stand may find the work done before the wait begins.
  EXPECT_LE(polled.count, microbatches * layers + 1);
  if (mpi_session().size() == 1) {
    EXPECT_EQ(polled.count, microbatches * layers + 1);
  }
}

// A group's communicator takes memory on the GPU: there are those that steps use, and the plan counts them.
TEST(NcclCommunicators, AreMadeForTheGroupsThatARunUses) {
  struct Case {
    Start start;
    Parallelism layout;
    int made;  // on 2 ranks, on 4
  };
  const int world = mpi_session().size();
  const std::map<int, std::vector<Case>> cases = {{1, {{Start::Copy, {1, 1, 1}, 0}}},
                                                  {2,
                                                   {{Start::Dense, {1, 1, 1}, 1},   // dp
                                                    {Start::Dense, {2, 1, 1}, 1},   // tp
                                                    {Start::Copy, {1, 1, 1}, 2},    // dp, edp
                                                    {Start::Copy, {1, 2, 1}, 2},    // dp, ep
                                                    {Start::Copy, {2, 1, 2}, 1}}},  // tp
                                                  {4,
                                                   {{Start::Dense, {2, 1, 1}, 2},    // tp, dp
                                                    {Start::Copy, {1, 2, 1}, 3},     // dp, ep, edp
                                                    {Start::Copy, {2, 2, 2}, 3},     // tp, dp, ep
                                                    {Start::Copy, {2, 4, 1}, 3}}}};  // tp, dp, ep
  for (const Case& k : cases.at(world)) {
    SCOPED_TRACE(k.layout.text());
    const Rig rig;
    Switches s;
    s.start = k.start;
    Config c = config_of(s);
    c.device = "cuda";
    c.train.micro_batch_size = 1;
    c.train.global_batch_size = world;
    const std::uint64_t before = emul::counters().nccl_communicators;
    const Mesh mesh = make_test_mesh(rig, k.layout);
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    random_fill()(t);
    (void)train_step(t, data_of(c).source());
    check_replicas(t.optimizer, t.memory);
    EXPECT_EQ(emul::counters().nccl_communicators - before, static_cast<std::uint64_t>(k.made));
    EXPECT_EQ(nccl_communicators(c, mesh.layout), k.made);
    const std::vector<MemoryClass> plan = plan_trainer(c, mesh, *rig.ops);
    const auto estimate = std::ranges::find(plan, "CUDA and NCCL (estimate)", &MemoryClass::name);
    ASSERT_NE(estimate, plan.end());
    EXPECT_EQ(estimate->bytes, (std::size_t{512} << 20) + static_cast<std::size_t>(k.made) * (std::size_t{256} << 20));
  }
}

Switches with(Start start, bool recompute, int chunks) {
  Switches s;
  s.start = start;
  s.recompute = recompute;
  s.chunks = chunks;
  return s;
}
INSTANTIATE_TEST_SUITE_P(Runs, GpuStepCounts,
                         ::testing::Values(with(Start::Dense, false, 1), with(Start::Copy, false, 3),
                                           with(Start::SharedExpert, true, 1)),
                         [](const auto& info) { return info.param.text(); });

}  // namespace
}  // namespace upcycle::test
