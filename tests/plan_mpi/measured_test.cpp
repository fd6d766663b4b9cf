#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/cpu/cpu_ops.h"
#include "parallel/plan/plan.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "tests/mpi_tests.h"
#include "tests/resident_bytes.h"
#include "tests/train/rig.h"

// Every rank's plan compared with what that rank then allocates and sends.
namespace upcycle::test {
namespace {

struct Case {
  const char* name;
  int tp = 1, ep = 1, etp = 1;
  bool moe = true;
  bool mixed = false;  // every second layer dense, a shared expert
  const char* recompute = "none";
  int micro_batches = 1, chunks = 1;
  int zero_stage = 1;
  const char* gradient_dtype = "fp32";
};

const Case kCases[] = {
    {.name = "dense over tp", .tp = 2, .moe = false},
    {.name = "expert parallel", .ep = 2, .micro_batches = 2},
    {.name = "experts cut over tp", .tp = 2, .ep = 2, .etp = 2},
    {.name = "folding", .tp = 2, .ep = 4},
    {.name = "mixed layers", .tp = 2, .ep = 2, .mixed = true, .micro_batches = 3},
    {.name = "recomputed in chunks", .ep = 2, .recompute = "full", .micro_batches = 2, .chunks = 3},
    {.name = "classes recomputed in chunks", .tp = 2, .ep = 2, .recompute = "attention,mlp,norms", .chunks = 3},
    {.name = "experts' gradients shared", .micro_batches = 2, .zero_stage = 2},
    {.name = "bf16 gradients", .ep = 2, .micro_batches = 2, .gradient_dtype = "bf16"},
    {.name = "eight experts' ranks",
     .tp = 2,
     .ep = 8,
     .micro_batches = 2,
     .chunks = 2,
     .zero_stage = 2,
     .gradient_dtype = "bf16"},
};

// About 60 MB per rank: H 192, F 768, L 4; an odd number of assignments, so that experts' shares differ.
Config config_of(const Case& c, int dp) {
  Config config = c.moe ? small_moe_config() : small_config();
  ModelConfig& m = config.model;
  m.hidden_size = 192;
  m.intermediate_size = c.moe ? 384 : 1536;
  m.moe_intermediate_size = c.moe ? 512 : 0;
  m.num_hidden_layers = 4;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.head_dim = 0;
  m.vocab_size = 4099;
  m.num_local_experts = c.moe ? 8 : 0;
  m.shared_expert = c.mixed;
  m.moe_every_n_layers = c.mixed ? 2 : 1;
  config.train.recompute = c.recompute;
  config.train.zero_stage = c.zero_stage;
  config.train.gradient_dtype = c.gradient_dtype;
  config.train.seq_length = 22;
  config.train.micro_batch_size = 3;
  config.train.global_batch_size = 3 * c.micro_batches * dp;
  config.parallel.tp = c.tp;
  config.parallel.ep = c.ep;
  config.parallel.etp = c.etp;
  config.parallel.dispatch_chunks = c.chunks;
  config.parallel.imbalance_factor = 8;  // no rounds: they would add their own exchanges of counts
  config.checkpoint.dir = "somewhere";
  return config;
}

// Counts what it allocates.
class MeasuredDevice final : public Device {
 public:
  DeviceKind kind() const override { return real_->kind(); }
  std::unique_ptr<Stream> make_stream() override { return real_->make_stream(); }
  void* allocate(std::size_t bytes) override {
    in_use += bytes;
    return real_->allocate(bytes);
  }
  void release(void* data, std::size_t bytes) override {
    in_use -= bytes;
    real_->release(data, bytes);
  }
  void copy(Stream& s, CopyKind kind, void* to, const void* from, const Runs& runs) override {
    real_->copy(s, kind, to, from, runs);
  }
  std::size_t in_use = 0;

 private:
  std::unique_ptr<Device> real_ = make_cpu_device();
};

// An arena's slack (rows kept for uneven routing) is its own too, though no step has written it yet.
void touch(const Arena& arena) {
  auto* p = static_cast<volatile char*>(arena.data());
  for (std::size_t i = 0; i < arena.capacity(); i += 4096) p[i] = p[i];
}

// What a process's first product allocates once, whatever is trained: oneDNN's own tables and code.
void take_what_is_taken_once() {
  constexpr std::int64_t n = 256;
  const auto stream = make_cpu_device()->make_stream();
  const auto ops = make_cpu_ops();
  std::vector<float> a(n * n), b(n * n), c(n * n);
  std::vector<char> scratch(ops->workspace_bytes({.T = n, .H = n, .F = n}));
  const auto matrix = [](std::vector<float>& v) { return Tensor(v.data(), DType::F32, {n, n}); };
  for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN})
    ops->matmul(*stream, {scratch.data(), scratch.size()}, kind, matrix(c), matrix(a), matrix(b));
}

bool has_ranks(const Case& c) { return layout_problem(mpi_session().size(), c.tp, c.ep, c.etp).empty(); }

class Planned : public ::testing::TestWithParam<Case> {};

TEST(PlannedLayouts, EveryLayoutIsMeasuredOnSomeNumberOfRanks) {
  const std::map<int, int> measured = {{2, 7}, {4, 9}, {8, 10}};
  const int world = mpi_session().size();
  ASSERT_TRUE(measured.contains(world)) << world << " ranks";
  EXPECT_EQ(std::count_if(std::begin(kCases), std::end(kCases), has_ranks), measured.at(world));
}

TEST_P(Planned, MemoryAndCollectivesAreThoseOfARealStep) {
  const Case& c = GetParam();
  if (!has_ranks(c)) GTEST_SKIP() << "needs more ranks than " << mpi_session().size();
  const int world = mpi_session().size(), rank = mpi_session().rank();
  const Config config = config_of(c, world / c.tp);
  const Plan plan = make_plan({config, {}, CpuOps::most_workspace}, world, rank);
  std::map<std::string, std::size_t> memory;
  for (const MemoryClass& m : plan.memory) memory[m.name] = m.bytes;

  MeasuredDevice device;
  const auto stream = device.make_stream();
  const auto ops = make_cpu_ops();
  const Mesh mesh = make_mesh(mpi_session(), plan.layout, *stream);
  const FixedSequences sequences =
      random_sequences(config.train.global_batch_size, config.train.seq_length, config.model.vocab_size, 5);
  take_what_is_taken_once();
  const std::size_t before = resident_bytes();
  Trainer t = make_trainer(config, mesh, device, *stream, *ops);
  initialize_trainer(t, 1);
  Snapshot snapshot = make_snapshot(t);

  EXPECT_EQ(memory["parameters"], t.memory.parameters.capacity());
  EXPECT_EQ(memory["gradients"], t.memory.gradients.capacity());
  EXPECT_EQ(memory["optimizer"], t.memory.optimizer.capacity());
  EXPECT_EQ(memory["activations"] + memory["dispatch buffers"] + memory["scratch"], t.activations.capacity());
  EXPECT_EQ(memory["checkpoint snapshot"], snapshot.arena.capacity());
  EXPECT_EQ(device.in_use + snapshot.arena.capacity() + memory["collectives"], plan.training_bytes());
  EXPECT_EQ(memory["dispatch buffers"] > 0, c.moe);

  reset_trace_counters();
  (void)train_step(t, sequences.source());
  const TraceCounters trace = trace_counters();
  std::uint64_t dispatched = 0;
  std::size_t fixed = 0;
  for (const CollectiveCount& real : trace.counts) {
    if (real.group == "ep" && real.op == "all_to_all_v") {
      dispatched = real.bytes;
      EXPECT_EQ(real.calls, plan.dispatch.calls);
      continue;
    }
    ++fixed;
    const auto same = [&](const CollectiveCount& p) { return p.group == real.group && p.op == real.op; };
    const auto planned = std::find_if(plan.fixed.begin(), plan.fixed.end(), same);
    ASSERT_NE(planned, plan.fixed.end()) << real.group << " " << real.op;
    EXPECT_EQ(planned->calls, real.calls) << real.group << " " << real.op;
    EXPECT_EQ(planned->bytes, real.bytes) << real.group << " " << real.op;
  }
  EXPECT_EQ(plan.fixed.size(), fixed);
  EXPECT_EQ(mesh.world->sum_of(static_cast<double>(dispatched)), static_cast<double>(plan.dispatch_total));
  EXPECT_EQ(plan.dispatch_total > 0, c.ep > 1);
  EXPECT_EQ(mesh.world->sum_of(static_cast<double>(plan.dispatch.bytes)), static_cast<double>(plan.dispatch_total));
  EXPECT_EQ(mesh.world->sum_of(plan.flops), plan.flops_total);
  const double pieces = static_cast<double>(plan.model_file + plan.optimizer_file);
  EXPECT_EQ(mesh.world->sum_of(pieces), static_cast<double>(plan.files_total));

  (void)take_snapshot(t, snapshot);
  for (const Arena* arena :
       {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer, &t.activations, &snapshot.arena})
    touch(*arena);
  const auto grown = static_cast<double>(resident_bytes() - before), all = static_cast<double>(plan.training_bytes()),
             collectives = static_cast<double>(memory["collectives"]);
#ifndef __SANITIZE_ADDRESS__  // which holds freed memory back
  // The communicators' scratch is resident as far as the step used it: somewhere between none and all.
  EXPECT_GT(grown, 0.95 * (all - collectives));
  EXPECT_LT(grown, 1.05 * all);
#endif
  if (rank == 0)
    std::printf("%s: planned %.1f MiB (%.1f of them collectives), grown by %.1f\n", c.name, all / 0x1p20,
                collectives / 0x1p20, grown / 0x1p20);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Planned, ::testing::ValuesIn(kCases));

}  // namespace
}  // namespace upcycle::test
