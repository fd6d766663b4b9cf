#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/config/describe.h"
#include "core/trace.h"
#include "kernels/ops.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/model/weights.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_exchange.h"
#include "parallel/upcycle/live_upcycle.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"
#include "tests/upcycle/models.h"

// Live conversion on every kind of layout: bit for bit what saving and upcycling from the checkpoint gives, moving the
// bytes that the plan says.
namespace upcycle::test {
namespace {

const std::vector<std::int32_t> kTokens{1, 5, 36, 0, 7, 7, 2, 19, 30, 11, 4, 8};

// K 4 and F 40: tp = 4 divides them, and slices of F/2.
Config dense_config(const char* dtype) {
  Config c = small_config();
  c.dtype = dtype;
  c.model.num_key_value_heads = 4;
  c.model.intermediate_size = 40;
  c.parallel.imbalance_factor = 8;  // rounds are not the subject
  c.train.seq_length = 12;
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 8;
  c.train.schedule = "constant";
  c.train.lr = 1e-2;
  return c;
}

struct Shape {
  int tp, ep, etp;
};
std::vector<Shape> shapes(int world) {
  if (world == 2) return {{1, 1, 1}, {1, 2, 1}, {2, 1, 1}, {2, 2, 1}, {2, 1, 2}};
  if (world == 4) return {{1, 2, 1}, {1, 4, 1}, {2, 1, 1}, {2, 4, 1}, {2, 2, 2}, {4, 4, 1}, {4, 2, 1}, {4, 1, 4}};
  return {{1, 8, 1}, {2, 4, 1}, {2, 2, 2}, {2, 4, 2}, {4, 8, 1}, {4, 2, 4}};
}

struct Layouts : ::testing::Test {
  Rig rig;
  FixedSequences data = random_sequences(16, 12, 37, 3);

  Config with_layout(Config c, const Shape& s) {
    c.parallel.tp = s.tp, c.parallel.ep = s.ep, c.parallel.etp = s.etp;
    return c;
  }

  Trainer trainer(const Config& c, const Mesh& mesh) {
    return make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  }

  // A dense run three steps old, saved.
  std::unique_ptr<Checkpoint> trained(const std::string& dir, const Config& c, const Mesh& mesh) {
    Trainer t = trainer(c, mesh);
    initialize_trainer(t, 8);
    for (int i = 0; i < 3; ++i) (void)train_step(t, data.source());
    CheckpointWriter writer(dir, *mesh.world, 0);
    Snapshot snapshot = make_snapshot(t);
    CheckpointInfo info = checkpoint_info(t);
    info.config = to_json(t.config);
    writer.start(info, take_snapshot(t, snapshot), {});
    writer.finish();
    return open_checkpoint(dir, true, mesh.world.get());
  }

  void expect_same_model(const Trainer& a, const Trainer& b) {
    for (const ParamRow& row : a.table().rows) {
      const auto weights = [&](const Trainer& t) {
        return floats_of(t, view_row(row, t.memory.weights.dense, t.memory.weights.expert));
      };
      EXPECT_TRUE(same_bits(weights(a), weights(b))) << "working weights of " << row.name;
    }
    for (const OwnedPiece& p : owned_pieces(a.table(), a.mesh->at, true)) {
      const auto values = [&](const Trainer& t) { return owned_floats(t, StateKind::Master, p); };
      EXPECT_TRUE(same_bits(values(a), values(b))) << "masters of " << p.row->name;
    }
  }

  void expect_moments(const Trainer& t, Checkpoint& dense) {
    for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {
      const std::string was = retained_tensor(*p.row);
      const auto i = static_cast<std::size_t>(p.row - t.table().rows.data());
      EXPECT_EQ(t.optimizer.row_steps[i], was.empty() ? 0 : 3) << p.row->name;
      for (const StateKind kind : {StateKind::Moment1, StateKind::Moment2}) {
        std::vector<float> want(static_cast<std::size_t>(p.part.size()), 0);
        if (!was.empty()) dense.read_state(kind, was, p.part, want.data());
        if (t.memory.form.moment == DType::BF16)
          std::ranges::transform(want, want.begin(), [](float x) { return to_float(to_bf16(x)); });
        EXPECT_TRUE(same_bits(owned_floats(t, kind, p), want)) << "moments of " << p.row->name;
      }
    }
  }

  static void expect_bytes(const LiveBytes& plan, const TraceCounters& trace) {
    const auto given = [&](const char* group, const char* op) {
      return static_cast<std::int64_t>(trace.of(group, op).bytes);
    };
    EXPECT_EQ(given("world", "all_to_all_v"), plan.masters + plan.moments);
    EXPECT_EQ(given("world", "max_of"), plan.agreement);
    EXPECT_EQ(given("world", "all_reduce"), plan.statistics);
    EXPECT_EQ(given("tp", "all_gather"), plan.working_tp);
    EXPECT_EQ(given("edp", "all_gather"), plan.working_edp);
    std::size_t all = 0;
    for (const CollectiveCount& c : trace.counts) all += c.bytes;
    EXPECT_EQ(static_cast<std::int64_t>(all),
              plan.masters + plan.moments + plan.agreement + plan.statistics + plan.working_tp + plan.working_edp);
  }

  // `everywhere`: each layout in both types; else in one of the two.
  void run(const UpcycleConfig& upcycle, const ModelConfig& target, bool everywhere = false) {
    const Mesh first = make_test_mesh(*rig.device, *rig.stream), one = single_mesh(rig);
    SharedFolder folder(*first.world);
    for (const char* dtype : {"fp32", "bf16"}) {
      Config dense = dense_config(dtype);
      const auto checkpoint = trained(folder.path + "/" + dtype, dense, first);
      Config moe = dense;
      moe.upcycle = upcycle;
      moe.model = upcycled_model(dense.model, target, upcycle, "test");

      Trainer alone = trainer(moe, one);
      const UpcycleReport want = upcycle_from_checkpoint(alone, *checkpoint, kTokens);
      alone.consumed_samples = 24;
      const double want_loss = train_step(alone, data.source()).loss;

      const std::vector<Shape> all = shapes(first.layout.world);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const Shape& s = all[i];
        if (!everywhere && (i % 2 == 0) != (dense.storage() == DType::F32)) continue;
        SCOPED_TRACE(fmt::format("{} tp={} ep={} etp={}", dtype, s.tp, s.ep, s.etp));
        const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, s.tp, s.ep, s.etp);
        moe = with_layout(moe, s);
        Trainer from_files = trainer(moe, mesh);
        const UpcycleReport files = upcycle_from_checkpoint(from_files, *checkpoint, kTokens);
        EXPECT_NEAR(files.change, want.change, (dense.storage() == DType::F32 ? 1e-5 : 2e-2) + 1e-3 * want.change);

        // Of two layouts one keeps its masters in another form; the values are the same.
        if (dense.storage() == DType::BF16)
          for (Config* c : {&dense, &moe}) {
            c->train.master_dtype = i / 2 % 2 == 0 ? "bf16_remainder" : "fp32";
            c->train.moment_dtype = i / 2 % 2 == 0 ? "bf16" : "fp32";
          }
        Trainer before = trainer(with_layout(dense, s), mesh), live = trainer(moe, mesh);
        restore_trainer(before, *checkpoint);
        reset_trace_counters();
        convert_live(before, live);
        const TraceCounters trace = trace_counters();
        const LiveBytes plan = plan_live(dense.model, moe, mesh.layout, mesh.rank);
        expect_bytes(plan, trace);
        const bool fp32 = dense.storage() == DType::F32;
        EXPECT_TRUE(s.tp != s.etp || upcycle.mode != "copy" || plan.working_tp == 0);
        EXPECT_TRUE(!fp32 || plan.masters + plan.working_edp == 0);
        expect_same_model(live, from_files);
        expect_moments(live, *checkpoint);
        check_replicas(live.optimizer, live.memory);
        EXPECT_EQ(live.step, 3);
        EXPECT_EQ(live.consumed_samples, 24);

        EXPECT_EQ(upcycle_live(std::move(before), moe, kTokens).report.change, files.change);
        const double loss = train_step(live, data.source()).loss;
        from_files.step = live.step - 1;
        from_files.consumed_samples = 24;
        EXPECT_EQ(loss, train_step(from_files, data.source()).loss);
        EXPECT_NEAR(loss, want_loss, (fp32 ? 1e-5 : 1e-2) * want_loss);
        check_replicas(live.optimizer, live.memory);
      }
    }
  }
};

TEST_F(Layouts, Copies) { run({}, experts(8, 2), true); }

TEST_F(Layouts, VirtualGroups) { run({"virtual_group", "down"}, experts(8, 4, 20)); }

// The cube root of 2 does not commute with rounding to bf16.
TEST_F(Layouts, VirtualGroupsOfAnotherFactor) { run({"virtual_group", "cube_root"}, experts(8, 4, 20)); }

TEST_F(Layouts, Noise) { run({"copy", "none", 0, 0.01}, experts(8, 2)); }

TEST_F(Layouts, DropAndNoise) { run({"virtual_group", "down", 0.3, 0.01}, experts(8, 4, 20), true); }

TEST_F(Layouts, SharedExpertInEverySecondLayer) {
  ModelConfig target = experts(8, 2);
  target.shared_expert = true;
  target.moe_every_n_layers = 2;
  run({}, target);
}

// Rounds of a few elements, which cut matrices and their rows, deliver the same as a single one.
TEST_F(Layouts, ManyRoundsBringTheSame) {
  const Config dense = dense_config("bf16");
  Config moe = dense;
  moe.upcycle = {"copy", "none", 0, 0.01};
  moe.model = upcycled_model(dense.model, experts(8, 2), moe.upcycle, "test");
  const Shape shape{2, 2, 1};
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, shape.tp, shape.ep, shape.etp);
  Trainer before = trainer(with_layout(dense, shape), mesh);
  initialize_trainer(before, 8);
  moe = with_layout(moe, shape);
  Trainer live = trainer(moe, mesh), again = trainer(moe, mesh);
  for (Trainer* t : {&live, &again}) convert_live(before, *t);

  const ExpertMaker maker(moe.model, moe.upcycle, static_cast<std::uint64_t>(moe.seed), {});
  for (const OwnedPiece& p : owned_pieces(again.table(), mesh.at, true)) {
    if (maker.origin(*p.row, p.part).tensor.empty()) continue;
    const Tensor piece = master_piece(again.memory, p);
    again.ops->fill(*again.stream, piece, -7);
  }
  constexpr std::int64_t kBuffer = 301;
  LiveExchange plan = plan_exchange(LiveState::Masters, dense.model, maker, mesh.layout, mesh.rank);
  agree_on_rounds(plan, *mesh.world, kBuffer);
  EXPECT_GT(plan.rounds, 10);
  reset_trace_counters();
  exchange_shards(plan, before, maker, StateKind::Master, again);
  EXPECT_EQ(trace_counters().of("world", "all_to_all_v").calls, static_cast<std::uint64_t>(plan.rounds));
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert}) {
    const Tensor &want = live.memory.master.of(g), &got = again.memory.master.of(g);
    EXPECT_TRUE(same_bits(floats_of(live, want), floats_of(again, got)));
  }
}

// Moments that are not kept are not exchanged.
TEST_F(Layouts, LionMovesOneMomentAndSgdNone) {
  for (const char* optimizer : {"adamw", "lion", "sgd"}) {
    Config dense = dense_config("fp32");
    dense.train.optimizer = optimizer;
    const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 2);
    Trainer before = trainer(with_layout(dense, {2, 1, 1}), mesh);
    initialize_trainer(before, 8);
    Config moe = with_layout(dense, {2, 1, 1});
    moe.model = upcycled_model(dense.model, experts(8, 2), moe.upcycle, "test");
    Trainer live = trainer(moe, mesh);
    reset_trace_counters();
    convert_live(before, live);
    EXPECT_EQ(trace_counters().of("world", "all_to_all_v").calls, static_cast<std::uint64_t>(moe.train.moments()));
    expect_bytes(plan_live(dense.model, moe, mesh.layout, mesh.rank), trace_counters());
  }
}

}  // namespace
}  // namespace upcycle::test
