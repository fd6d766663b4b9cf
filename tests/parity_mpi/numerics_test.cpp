#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>

#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "tests/data/expect_input_error.h"
#include "tests/parity_mpi/models.h"
#include "tests/parity_mpi/rotated_sums.h"
#include "tests/upcycle/models.h"

// Single numerics rules on every layout of this world: a failed parity test would not say which one is broken.
namespace upcycle::test {
namespace {

Trainer trainer_of(const Rig& rig, const Config& config, const Mesh& mesh, const Fill& fill) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  fill(t);
  return t;
}

Config config_of(const Switches& s, std::int64_t microbatches) {
  Config c = config_of(s);
  c.train.global_batch_size = c.train.micro_batch_size * microbatches * mpi_session().size();
  return c;
}

// Which sequences form which microbatch is global: dp ranks ask for consecutive runs of the same sequence, all tp ranks
// of one for the same, and every sequence is asked for once.
TEST(Numerics, DataOrderIndependentOfLayout) {
  const Rig rig;
  const Config c = config_of(Switches{}, 2);
  const std::int64_t n = c.train.global_batch_size;
  const FixedSequences data = random_sequences(2 * n, c.train.seq_length, c.model.vocab_size, 1);
  for (const Parallelism& p : legal_layouts(c.model)) {
    SCOPED_TRACE(p.text());
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer t = trainer_of(rig, c, mesh, random_fill());
    for (std::int64_t step = 0; step < 2; ++step) {
      std::string asked, expected;
      (void)train_step(t, [&](std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
        asked += fmt::format(" {}", index);
        data.source()(index, tokens, targets);
      });
      for (std::int64_t i = 0; i < n; ++i) expected += fmt::format(" {}", step * n + i);
      EXPECT_EQ(mesh.dp->gather_text(asked), expected);
    }
  }
}

// The load-balancing loss belongs to a microbatch, so it shows how sequences were grouped: by micro_batch_size only,
// never by the ranks.
TEST(Numerics, MicrobatchesAreGlobal) {
  const Rig rig;
  Switches s;
  Config c = config_of(s, 2);
  const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 1);
  double of_pairs = 0;
  for (const std::int64_t B : {2, 4}) {
    c.train.micro_batch_size = B;
    const double want = one_rank_reference(c, random_fill(), data).result.aux_loss;
    for (const Parallelism& p : legal_layouts(c.model)) {
      SCOPED_TRACE(p.text());
      const Mesh mesh = make_test_mesh(rig, p);
      Trainer t = trainer_of(rig, c, mesh, random_fill());
      EXPECT_NEAR(compute_gradients(t, data.source()).aux_loss, want, 1e-6);
    }
    if (B == 2) of_pairs = want;
    if (B == 4) {
      EXPECT_GT(std::abs(want - of_pairs), 1e-3);
    }
  }
}

// Under sequence parallelism a tp rank sees only its own tokens: norms and routers get the sum over tp, on every tp
// rank bit for bit the same, in whatever order each of their dp groups adds.
TEST(Numerics, RouterAndNormGradientsAreReducedOverDpThenTp) {
  const Rig rig;
  const Config c = config_of(Switches{}, 1);
  const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
  const Reference want = one_rank_reference(c, random_fill(), data);
  const ParamTable table = make_global_table(c.model);
  for (const Parallelism& p : legal_layouts(c.model)) {
    SCOPED_TRACE(p.text());
    Mesh mesh = make_test_mesh(rig, p);
    if (rig.device->kind() == DeviceKind::Cpu) mesh.dp = std::make_shared<RotatedSums>(mesh.dp, mesh.at.tp);
    Trainer t = trainer_of(rig, c, mesh, random_fill());
    (void)compute_gradients(t, data.source());
    int pieces = 0;
    for (const OwnedPiece& piece : owned_pieces(t.table(), mesh.at, true)) {
      if (!piece.row->replicated_over_tp) continue;
      ++pieces;
      const std::vector<float> mine = floats_of(t, piece_of(t.memory.grads, piece));
      const std::string bits(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(float));
      EXPECT_EQ(bits, mesh.tp->broadcast_text(bits, 0)) << piece.row->name;
      const std::vector<float>& g0 = want.gradients[table.places.at(piece.row->name)];
      for (std::int64_t i = 0; i < piece.part.size(); ++i) {
        const std::int64_t at =
            (piece.part.row + i / piece.part.columns) * piece.row->columns + piece.part.column + i % piece.part.columns;
        EXPECT_NEAR(mine[static_cast<std::size_t>(i)], g0[static_cast<std::size_t>(at)], 1e-6 * want.norm)
            << piece.row->name;
      }
    }
    EXPECT_GT(mesh.world->sum_of(pieces), 0);
  }
}

// The gradient norm and the clipping factor: each element counted once, and the same bits on all ranks; frozen rows are
// left out.
TEST(Numerics, AllRanksClipByTheSameNormWithAndWithoutFrozenRows) {
  const Rig rig;
  for (const bool frozen : {false, true}) {
    Config c = config_of(Switches{}, 1);
    c.train.clip_grad = 0.1;
    if (frozen) c.train.freeze = {"*norm.weight", "*.gate.weight", "lm_head.weight", "*.experts.1.*"};
    const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
    const Reference want = one_rank_reference(c, random_fill(), data);
    const ParamTable table = make_global_table(c.model);
    double norm = 0;
    for (std::size_t i = 0; i < table.rows.size(); ++i) {
      const std::string& name = table.rows[i].name;
      if (frozen && (name.ends_with("norm.weight") || name.ends_with(".gate.weight") || name == "lm_head.weight" ||
                     name.find(".experts.1.") != std::string::npos))
        continue;
      norm += want.norms[i] * want.norms[i];
    }
    norm = std::sqrt(norm);
    for (const Parallelism& p : legal_layouts(c.model)) {
      SCOPED_TRACE(p.text());
      const Mesh mesh = make_test_mesh(rig, p);
      Trainer t = trainer_of(rig, c, mesh, random_fill());
      (void)compute_gradients(t, data.source());
      const double got = clipped_norm(t), scale = floats_of(t, t.memory.scale)[0];
      EXPECT_NEAR(got, norm, 1e-5 * norm);
      EXPECT_NEAR(scale, 0.1 / norm, 1e-5 * scale);
      EXPECT_EQ(mesh.world->max_of(got), -mesh.world->max_of(-got));
      EXPECT_EQ(mesh.world->max_of(scale), -mesh.world->max_of(-scale));
    }
  }
}

// Initial weights, and upcycling with everything that draws (noise, dropped units, routers), bit for bit.
TEST(Numerics, EveryLayoutStartsFromTheSameBits) {
  const Rig rig;
  const Mesh single = single_mesh(rig);
  for (const Start start : {Start::Copy, Start::VirtualGroup, Start::SharedExpert}) {
    Switches s;
    s.start = start;
    const Config c = config_of(s, 1);
    const Fill fill = start == Start::SharedExpert ? random_fill() : [&](Trainer& t) {
      DrawnModel dense(dense_model_of(s), 5);
      UpcycleConfig u = upcycling_of(s);
      u.drop_ratio = 0.25;
      const auto source = make_upcycled_source(dense, t.config.model, u, 1);
      load_trainer_weights(t, *source);
    };
    const TrainedState whole = state_of(trainer_of(rig, c, single, fill));
    for (const Parallelism& p : legal_layouts(c.model)) {
      SCOPED_TRACE(p.text());
      const Mesh mesh = make_test_mesh(rig, p);
      const Trainer t = trainer_of(rig, c, mesh, fill);
      for (const OwnedPiece& piece : owned_pieces(t.table(), mesh.at, true)) {
        const std::vector<float>& want = whole.parameters.at(piece.row->name).weight;
        const std::vector<float> got = floats_of(t, piece_of(t.memory.weights, piece));
        bool same = true;
        for (std::int64_t i = 0; i < piece.part.size(); ++i) {
          const std::int64_t at = (piece.part.row + i / piece.part.columns) * piece.row->columns + piece.part.column +
                                  i % piece.part.columns;
          same = same && got[static_cast<std::size_t>(i)] == want[static_cast<std::size_t>(at)];
        }
        EXPECT_TRUE(same) << piece.row->name;
      }
    }
  }
}

// Equal experts: the LM's gradient of the router is zero, and exactly so, since Adam would make full steps of rounding.
TEST(Numerics, CopiesGiveTheRouterNoGradientOnAnyLayout) {
  const Rig rig;
  for (const char* dtype : {"fp32", "bf16"}) {
    for (const bool tight : {false, true}) {
      Switches s;
      s.tight = tight;
      s.chunks = tight ? 3 : 1;
      Config c = config_of(s, 1);
      c.dtype = dtype;
      c.model.router_aux_loss_coef = c.model.router_z_loss_coef = 0;
      const Fill copies = [&](Trainer& t) {
        DrawnModel dense(dense_model_of(s), 5);
        UpcycleConfig u = upcycling_of(s);
        u.noise_std = 0;
        const auto source = make_upcycled_source(dense, t.config.model, u, 1);
        load_trainer_weights(t, *source);
      };
      const FixedSequences data =
          random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
      for (const Parallelism& p : legal_layouts(c.model)) {
        SCOPED_TRACE(fmt::format("{} {} {}", p.text(), dtype, tight));
        const Mesh mesh = make_test_mesh(rig, p);
        Trainer t = trainer_of(rig, c, mesh, copies);
        (void)compute_gradients(t, data.source());
        double routers = 0, others = 0;
        for (const OwnedPiece& piece : owned_pieces(t.table(), mesh.at, true)) {
          (piece.row->name.ends_with(".gate.weight") ? routers : others) +=
              norm(floats_of(t, piece_of(t.memory.grads, piece)));
        }
        EXPECT_EQ(mesh.world->sum_of(routers), 0);
        EXPECT_GT(mesh.world->sum_of(others), 0);
      }
    }
  }
}

TEST(MakeTrainer, TokensThatTpCanNotCutAreRefused) {
  const Rig rig;
  const int world = mpi_session().size();
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, world);
  Config c = config_of(Switches{}, 1);
  c.train.micro_batch_size = 1;
  c.train.seq_length = 2 * world + 1;
  const std::string text = fmt::format("= {} tokens can not be cut over parallel.tp = {}", 2 * world + 1, world);
  expect_input_error([&] { (void)make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops); }, {text.c_str()});
}

}  // namespace
}  // namespace upcycle::test
