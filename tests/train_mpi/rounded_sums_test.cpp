#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "parallel/train/reduction.h"
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// Where bf16 sums of gradients are rounded, to the bit: once for each element and microbatch, and once more where sums
// that have no replicas are added over tp. Gradients are made by hand.
namespace upcycle::test {
namespace {

constexpr int kMicrobatches = 5;

struct Case {
  const char* name;
  int tp, ep, etp;
  std::int64_t zero_stage;
};

float rounded(float x) { return to_float(to_bf16(x)); }

// Of one element in one microbatch of one rank of the world.
float gradient(const ParamRow& row, std::int64_t element, int microbatch, int rank) {
  return static_cast<float>(rng::uniform(static_cast<std::uint64_t>(100 * microbatch + rank), rng::key_of(row.name),
                                         static_cast<std::uint64_t>(element)) -
                            0.3);
}

// A rank of the world whose gradients of a row are the `replica`-th's of dp (edp), and the `slice`-th's of tp.
int rank_of(const ParamRow& row, const Layout& layout, int replica, int slice) {
  return row.group == ParamGroup::Expert ? replica : row.replicated_over_tp ? replica * layout.tp + slice : replica;
}

float expected(const ParamRow& row, std::int64_t element, const Layout& layout, std::int64_t zero_stage) {
  const bool expert = row.group == ParamGroup::Expert;
  const int replicas = expert ? layout.edp : layout.dp, slices = !expert && row.replicated_over_tp ? layout.tp : 1;
  float sum = 0;
  for (int slice = 0; slice < slices; ++slice) {
    const auto of = [&](int j, int replica) { return gradient(row, element, j, rank_of(row, layout, replica, slice)); };
    const auto over_microbatches = [&](const auto& addend) {
      float s = 0;
      for (int j = 0; j < kMicrobatches; ++j) s = rounded(s + addend(j));
      return s;
    };
    const auto over_replicas = [&](const auto& addend) {
      float s = addend(0);
      for (int r = 1; r < replicas; ++r) s += addend(r);
      return s;
    };
    const float slice_sum =
        zero_stage == 2 ? over_microbatches([&](int j) { return over_replicas([&](int r) { return of(j, r); }); })
                        : over_replicas([&](int r) { return over_microbatches([&](int j) { return of(j, r); }); });
    sum = slice == 0 ? slice_sum : sum + slice_sum;
  }
  return zero_stage == 2 || replicas == 1 ? rounded(sum) : sum;
}

class RoundedSums : public ::testing::TestWithParam<Case> {};

TEST_P(RoundedSums, AreRoundedOncePerMicrobatch) {
  const Case& c = GetParam();
  const Rig rig;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, c.tp, c.ep, c.etp);
  Config config = small_moe_config();
  config.train.seq_length = 8;
  config.train.gradient_dtype = "bf16";
  config.train.zero_stage = c.zero_stage;
  Trainer t = random_trainer(rig, config, mesh);
  const ParamTable& table = t.table();
  const auto element_of = [](const ParamRow& row, const Rectangle& part, std::int64_t i) {
    return (part.row + i / part.columns) * row.columns + part.column + i % part.columns;
  };
  for (int step = 0; step < 2; ++step) {  // nothing of a step is left in the next one
    zero_gradients(t.optimizer, t.memory);
    for (int j = 0; j < kMicrobatches; ++j) {
      start_backward(t.optimizer, t.memory);
      for (std::int64_t layer = config.model.num_hidden_layers; layer >= -1; --layer) {
        for (const ParamRow& row : table.rows) {
          if (table.bucket_of(row).layer != layer) continue;
          const int replica = row.group == ParamGroup::Expert ? mesh.at.edp : mesh.at.dp;
          std::vector<float> values(static_cast<std::size_t>(row.part.size()));
          for (std::int64_t i = 0; i < row.part.size(); ++i)
            values[static_cast<std::size_t>(i)] =
                gradient(row, element_of(row, row.part, i), j, rank_of(row, mesh.layout, replica, mesh.at.tp));
          set_floats(t, Tensor(gradient_place(table, t.memory, row).data, DType::F32, {row.part.size()}), values);
        }
        start_reduction(t.optimizer, t.memory, layer, j == kMicrobatches - 1);
      }
    }
    finish_reduction(t.optimizer, t.memory);
  }
  double squares = 0;
  for (const OwnedPiece& p : owned_pieces(table, mesh.at, true)) {
    const std::vector<float> got = floats_of(t, gradient_piece(table, t.memory, p));
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < p.part.size(); ++i) {
      const float x = got[static_cast<std::size_t>(i)];
      wrong += x != expected(*p.row, element_of(*p.row, p.part, i), mesh.layout, c.zero_stage) ? 1 : 0;
      if (!p.row->replicated_over_tp || mesh.at.tp == 0) squares += static_cast<double>(x) * static_cast<double>(x);
    }
    EXPECT_EQ(wrong, 0) << p.row->name;
  }
  squares = mesh.world->sum_of(squares);
  EXPECT_NEAR(clipped_norm(t), std::sqrt(squares), 1e-6 * std::sqrt(squares));
}

INSTANTIATE_TEST_SUITE_P(TwoRanks, RoundedSums,
                         ::testing::Values(Case{"Dp", 1, 1, 1, 1}, Case{"DpZero2", 1, 1, 1, 2}, Case{"Ep", 1, 2, 1, 1},
                                           Case{"EpZero2", 1, 2, 1, 2}, Case{"Tp", 2, 1, 1, 1},
                                           Case{"TpZero2", 2, 1, 1, 2}, Case{"TpEtp", 2, 1, 2, 1}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
