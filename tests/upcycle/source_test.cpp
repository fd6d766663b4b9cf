#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/rng.h"
#include "parallel/checkpoint/load.h"
#include "tests/data/expect_input_error.h"
#include "tests/upcycle/models.h"

namespace upcycle::test {
namespace {

struct Made {
  DrawnModel dense;
  ModelConfig moe;
  std::unique_ptr<TensorSource> source;
  Made(const ModelConfig& target, const UpcycleConfig& u, std::uint64_t seed = 11,
       const ModelConfig& from = dense_model())
      : dense(from, 5),
        moe(upcycled_model(from, target, u, "c.json")),
        source(make_upcycled_source(dense, moe, u, seed)) {}
};

UpcycleConfig virtual_group() {
  UpcycleConfig u;
  u.mode = "virtual_group";
  return u;
}

const char* const kMatrices[3][2] = {{"w1", "gate_proj"}, {"w3", "up_proj"}, {"w2", "down_proj"}};

std::string mlp_name(std::int64_t layer, const std::string& w) {
  return fmt::format("model.layers.{}.mlp.{}.weight", layer, w);
}

TEST(UpcycledSource, CopiesAreBitwise) {
  Made m(experts(4, 2), {});
  for (const ParamRow& row : make_global_table(m.moe).rows) {
    ASSERT_TRUE(m.source->has(row.name)) << row.name;
    if (row.expert < 0 && row.name.find("gate.weight") == std::string::npos) {
      EXPECT_TRUE(same_bits(read(*m.source, row.name), read(m.dense, row.name))) << row.name;
    }
  }
  for (std::int64_t l = 0; l < 2; ++l)
    for (std::int64_t e = 0; e < 4; ++e)
      for (const auto& [w, mlp] : kMatrices)
        EXPECT_TRUE(same_bits(read(*m.source, expert_name(l, e, w)), read(m.dense, mlp_name(l, mlp))));
  EXPECT_FALSE(m.source->has(mlp_name(0, "gate_proj")));
}

TEST(UpcycledSource, AnExpertOfAVirtualGroupIsItsSlice) {
  UpcycleConfig u = virtual_group();
  u.scale = "down";
  Made m(experts(8, 4, 5), u);
  for (std::int64_t e = 0; e < 8; ++e) {
    const std::int64_t at = e % 4 * 5;
    for (const auto& [w, mlp] : {std::pair{"w1", "gate_proj"}, std::pair{"w3", "up_proj"}})
      EXPECT_TRUE(same_bits(read(*m.source, expert_name(1, e, w)), read(m.dense, mlp_name(1, mlp), {at, 0, 5, 24})));
    std::vector<float> down = read(m.dense, mlp_name(1, "down_proj"), {0, at, 24, 5});
    for (float& x : down) x *= 4;
    EXPECT_TRUE(same_bits(read(*m.source, expert_name(1, e, "w2")), down)) << e;
  }
}

TEST(UpcycledSource, EveryNLayersAndTheSharedExpertKeepTheDenseMlp) {
  ModelConfig target = experts(4, 2);
  target.moe_every_n_layers = 2;
  target.shared_expert = true;
  UpcycleConfig u;
  u.noise_std = 0.5;
  Made m(target, u);
  for (const auto& [w, mlp] : kMatrices) {
    EXPECT_TRUE(same_bits(read(*m.source, mlp_name(0, mlp)), read(m.dense, mlp_name(0, mlp))));
    const std::string shared = fmt::format("model.layers.1.block_sparse_moe.shared_expert.{}.weight", mlp);
    EXPECT_TRUE(same_bits(read(*m.source, shared), read(m.dense, mlp_name(1, mlp))));
  }
  for (const float x : read(*m.source, expert_name(1, 3, "w2"))) EXPECT_EQ(x, 0);
  EXPECT_FALSE(same_bits(read(*m.source, expert_name(1, 3, "w1")), read(m.dense, mlp_name(1, "gate_proj"))));
}

TEST(UpcycledSource, RouterRowsAreTiedWithinAGroupAndDifferBetween) {
  UpcycleConfig u = virtual_group();
  u.router_std = 0.3;
  ModelConfig wide = dense_model();
  wide.hidden_size = 480;
  wide.head_dim = 120;
  Made m(experts(8, 4, 5), u, 11, wide);
  std::vector<std::vector<float>> rows;
  double sum = 0, squares = 0;
  for (std::int64_t l = 0; l < 2; ++l)
    for (std::int64_t e = 0; e < 8; ++e) {
      const std::string name = fmt::format("model.layers.{}.block_sparse_moe.gate.weight", l);
      rows.push_back(read(*m.source, name, {e, 0, 1, 480}));
      for (const float x : rows.back()) sum += x, squares += double(x) * x;
    }
  for (std::size_t a = 0; a < rows.size(); ++a)
    for (std::size_t b = 0; b < rows.size(); ++b)
      EXPECT_EQ(a / 4 == b / 4, same_bits(rows[a], rows[b])) << a << " " << b;
  // 1920 draws: standard errors 0.3 / sqrt(1920) and 0.3 / sqrt(2 * 1920).
  EXPECT_NEAR(sum / (16 * 480), 0, 5 * 0.0069);
  EXPECT_NEAR(std::sqrt(squares / (16 * 480)), 0.3, 5 * 0.0049);
}

TEST(UpcycledSource, DropRedrawsOneIndexSetAndCopiesTheRest) {
  for (const std::int64_t G : {1, 2}) {
    UpcycleConfig u = virtual_group();
    u.drop_ratio = 0.4;
    const std::int64_t F = 20 / G;
    Made m(experts(4, 2, F), u);
    std::set<std::vector<std::int64_t>> sets;
    for (std::int64_t l = 0; l < 2; ++l)
      for (std::int64_t e = 0; e < 4; ++e) {
        const auto units = dropped_units(11, l, e, F, 0.4);
        ASSERT_EQ(units.size(), static_cast<std::size_t>(std::lround(0.4 * static_cast<double>(F))));
        sets.insert(units);
        for (const auto& [w, mlp] : kMatrices) {
          const bool down = std::string(w) == "w2";
          const std::int64_t at = e % G * F;
          for (std::int64_t f = 0; f < F; ++f) {
            const auto got =
                read(*m.source, expert_name(l, e, w), down ? Rectangle{0, f, 24, 1} : Rectangle{f, 0, 1, 24});
            const auto was =
                read(m.dense, mlp_name(l, mlp), down ? Rectangle{0, at + f, 24, 1} : Rectangle{at + f, 0, 1, 24});
            const bool redrawn = std::binary_search(units.begin(), units.end(), f);
            for (std::size_t i = 0; i < got.size(); ++i)
              EXPECT_EQ(got[i] != was[i], redrawn) << w << " layer " << l << " expert " << e << " unit " << f;
          }
        }
      }
    EXPECT_GE(sets.size(), 7u);
  }
}

// A maker that has made other experts before, in any order, makes the same as one that starts with this one.
TEST(UpcycledSource, DroppedUnitsDoNotDependOnWhatWasMadeBefore) {
  UpcycleConfig u;
  u.drop_ratio = 0.4;
  Made used(experts(4, 2), u);
  const auto all = [](Made& m, std::int64_t l, std::int64_t e) { return read(*m.source, expert_name(l, e, "w2")); };
  for (const auto& [l, e] : {std::pair{1, 3}, {0, 3}, {1, 0}, {0, 0}, {1, 3}, {0, 3}}) {
    Made fresh(experts(4, 2), u);
    EXPECT_TRUE(same_bits(all(used, l, e), all(fresh, l, e))) << l << " " << e;
  }
}

TEST(UpcycledSource, RedrawnUnitsHaveTheMatrixsOwnMeanAndDeviation) {
  ModelConfig wide = dense_model();
  wide.hidden_size = 96;
  wide.head_dim = 24;
  wide.intermediate_size = 200;
  UpcycleConfig u;
  u.drop_ratio = 1;
  Made m(experts(2, 1), u, 11, wide);
  for (const auto& [w, mlp] : kMatrices) {
    const std::vector<float> was = read(m.dense, mlp_name(0, mlp));
    StatisticsSum dense;
    dense.add(was.data(), static_cast<std::int64_t>(was.size()));
    std::vector<std::vector<float>> drawn;
    for (std::int64_t e = 0; e < 2; ++e) {
      drawn.push_back(read(*m.source, expert_name(0, e, w)));
      StatisticsSum sum;
      sum.add(drawn.back().data(), static_cast<std::int64_t>(was.size()));
      const double error = dense.result().std / std::sqrt(static_cast<double>(was.size()));
      EXPECT_NEAR(sum.result().mean, dense.result().mean, 5 * error) << w;
      EXPECT_NEAR(sum.result().std, dense.result().std, 5 * error) << w;
    }
    EXPECT_FALSE(same_bits(drawn[0], drawn[1]));
  }
}

TEST(UpcycledSource, NoiseHasItsSizeAndDiffersBetweenExperts) {
  ModelConfig wide = dense_model();
  wide.hidden_size = 96;
  wide.head_dim = 24;
  wide.intermediate_size = 200;
  UpcycleConfig u;
  u.noise_std = 0.07;
  Made m(experts(2, 1), u, 11, wide);
  std::vector<std::vector<float>> all;
  for (std::int64_t l = 0; l < 2; ++l)
    for (std::int64_t e = 0; e < 2; ++e)
      for (const auto& [w, mlp] : kMatrices) {
        std::vector<float> noise = read(*m.source, expert_name(l, e, w));
        const std::vector<float> was = read(m.dense, mlp_name(l, mlp));
        for (std::size_t i = 0; i < noise.size(); ++i) noise[i] -= was[i];
        StatisticsSum sum;
        sum.add(noise.data(), static_cast<std::int64_t>(noise.size()));
        const double error = 0.07 / std::sqrt(static_cast<double>(noise.size()));
        EXPECT_NEAR(sum.result().mean, 0, 5 * error);
        EXPECT_NEAR(sum.result().std, 0.07, 5 * error);
        all.push_back(std::move(noise));
      }
  // Independent streams: no pair correlates.
  for (std::size_t a = 0; a < all.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) {
      double dot = 0;
      for (std::size_t i = 0; i < all[a].size(); ++i) dot += double(all[a][i]) * all[b][i];
      EXPECT_LT(std::abs(dot) / (norm(all[a]) * norm(all[b])), 5 / std::sqrt(static_cast<double>(all[a].size())));
    }
}

TEST(UpcycledSource, ANotANumberInADroppedMatrixIsNamed) {
  struct Broken final : TensorSource {
    DrawnModel good{dense_model(), 5};
    const std::string& name() const override { return good.name(); }
    const ModelConfig& model() const override { return good.model(); }
    bool has(const std::string& t) const override { return good.has(t); }
    void read(const std::string& t, const Rectangle& part, float* out) override {
      good.read(t, part, out);
      if (t == "model.layers.1.mlp.up_proj.weight") out[part.size() - 1] = NAN;
    }
  } broken;
  UpcycleConfig u;
  u.drop_ratio = 0.5;
  const ModelConfig moe = upcycled_model(dense_model(), experts(4, 2), u, "c.json");
  expect_input_error([&] { (void)make_upcycled_source(broken, moe, u, 1); },
                     {"a drawn model", "model.layers.1.mlp.up_proj.weight", "nan"});
}

// Everything random at once: noise, drop, scale, tied routers.
UpcycleConfig everything() {
  UpcycleConfig u = virtual_group();
  u.scale = "cube_root";
  u.noise_std = 0.05;
  u.drop_ratio = 0.3;
  return u;
}

TEST(UpcycledSource, NoValueDependsOnTheRectangleItIsReadIn) {
  ModelConfig target = experts(8, 4, 10);
  target.moe_every_n_layers = 2;
  Made m(target, everything()), again(target, everything()), other(target, everything(), 12);
  std::size_t differing = 0, n = 0;
  for (const ParamRow& row : make_global_table(m.moe).rows) {
    const std::vector<float> whole = read(*m.source, row.name);
    differing += same_bits(whole, read(*other.source, row.name)) ? 0 : 1;
    std::vector<float> assembled(whole.size(), NAN);
    for (std::int64_t r = row.rows, height; r > 0; r -= height) {  // from the end on, ragged
      height = std::min<std::int64_t>(r, 1 + (r * 5) % 7);
      for (std::int64_t c = 0, width; c < row.columns; c += width) {
        width = std::min<std::int64_t>(row.columns - c, 1 + (c + r) % 9);
        const Rectangle part{r - height, c, height, width};
        const std::vector<float> values = read(*again.source, row.name, part);
        for (std::int64_t i = 0; i < height; ++i)
          std::copy_n(values.begin() + i * width, width, assembled.begin() + (part.row + i) * row.columns + c);
        ++n;
      }
    }
    EXPECT_TRUE(same_bits(assembled, whole)) << row.name;
  }
  EXPECT_GT(n, 500u);
  EXPECT_EQ(differing, 1u + 8 * 3) << "the seed changes the router and every expert tensor, and nothing else";
}

TEST(UpcycledSource, EveryLayoutAssemblesTheSameModel) {
  Made one(experts(8, 4, 10), everything());
  std::map<std::string, std::vector<float>> whole;
  for (const ParamRow& row : make_global_table(one.moe).rows) whole[row.name] = read(*one.source, row.name);
  for (const auto& [world, tp, ep, etp] :
       {std::array{2, 2, 1, 1}, std::array{2, 2, 2, 1}, std::array{2, 2, 1, 2}, std::array{4, 2, 2, 2},
        std::array{4, 1, 4, 1}, std::array{8, 2, 4, 2}, std::array{8, 2, 2, 1}}) {
    const Layout layout = make_layout(world, tp, ep, etp);
    std::map<std::string, std::vector<float>> got;
    for (int rank = 0; rank < world; ++rank) {
      Made mine(experts(8, 4, 10), everything());  // each rank opens its own source
      const ParamTable table = make_param_table(mine.moe, layout, coordinates_of(layout, rank));
      load_parameters(table, *mine.source, 600, [&](const ParamRow& row, const Rectangle& part, const float* values) {
        std::vector<float>& to = got[row.name];
        to.resize(static_cast<std::size_t>(row.global_size()), NAN);
        for (std::int64_t r = 0; r < part.rows; ++r)
          std::copy_n(values + r * part.columns, part.columns, to.begin() + (part.row + r) * row.columns + part.column);
      });
    }
    ASSERT_EQ(got.size(), whole.size());
    for (const auto& [name, values] : whole)
      EXPECT_TRUE(same_bits(got.at(name), values)) << name << " world " << world << " tp " << tp << " ep " << ep;
  }
}

TEST(UpcycledSource, WorkingWeightsInBf16AreTheRoundedFp32) {
  Made m(experts(8, 4, 10), everything());
  const ParamTable table = make_global_table(m.moe);
  std::vector<float> dense32(static_cast<std::size_t>(table.dense.size)),
      expert32(static_cast<std::size_t>(table.expert.size));
  std::vector<bf16> dense16(dense32.size()), expert16(expert32.size());
  Staging host;
  load_weights(table, *m.source, host, Tensor(dense32.data(), DType::F32, {table.dense.size}),
               Tensor(expert32.data(), DType::F32, {table.expert.size}));
  load_weights(table, *m.source, host, Tensor(dense16.data(), DType::BF16, {table.dense.size}),
               Tensor(expert16.data(), DType::BF16, {table.expert.size}));
  for (std::size_t i = 0; i < dense32.size(); ++i) ASSERT_EQ(dense16[i].bits, to_bf16(dense32[i]).bits);
  for (std::size_t i = 0; i < expert32.size(); ++i) ASSERT_EQ(expert16[i].bits, to_bf16(expert32[i]).bits);
}

}  // namespace
}  // namespace upcycle::test
