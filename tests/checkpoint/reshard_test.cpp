#include <fmt/core.h>
#include <gtest/gtest.h>

#include <random>

#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/reshard.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"
#include "tests/model_forms.h"

namespace upcycle::test {
namespace {

// world, tp, ep, etp
struct Shape {
  int world, tp, ep, etp;
};
const std::vector<Shape> shapes = {{1, 1, 1, 1}, {2, 2, 1, 1}, {2, 1, 1, 1}, {2, 1, 2, 1},
                                   {4, 2, 2, 1}, {4, 2, 2, 2}, {6, 2, 2, 1}};

Layout layout_of(const Shape& s) { return make_layout(s.world, s.tp, s.ep, s.etp); }

class Reshard : public testing::TestWithParam<Shape> {};

TEST_P(Reshard, EveryOtherLayoutReadsItsPartsBitForBit) {
  const TemporaryFolder folder;
  ModelConfig model = kBiasedPostNorms.of(small_model(4));  // vectors that are cut and vectors that are whole
  model.router_score = "sigmoid";
  model.router_bias = true;
  save_as(folder.file("run"), model, layout_of(GetParam()), 7);
  const auto c = open_checkpoint(folder.file("run"));
  EXPECT_EQ(c->moments(), 2);
  expect_whole(*c);
  for (const Shape& other : shapes) {
    const Layout layout = layout_of(other);
    for (int rank = 0; rank < layout.world; ++rank) {
      const Coordinates at = coordinates_of(layout, rank);
      const ParamTable table = make_param_table(model, layout, at);
      for (const ParamRow& row : table.rows) expect_state(*c, StateKind::Master, row.name, row.part);
      for (const OwnedPiece& p : owned_pieces(table, at, true)) {
        expect_state(*c, StateKind::Moment1, p.row->name, p.part);
        expect_state(*c, StateKind::Moment2, p.row->name, p.part);
      }
    }
  }
}

TEST_P(Reshard, AnyRectangle) {
  const TemporaryFolder folder;
  save_as(folder.file("run"), small_model(4), layout_of(GetParam()), 7);
  const auto c = open_checkpoint(folder.file("run"));
  std::mt19937 random(1);
  const auto pick = [&](std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random);
  };
  for (int i = 0; i < 200; ++i) {
    const auto& t = c->tensors()[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(c->tensors().size()) - 1))];
    Rectangle part;
    part.row = pick(0, t.rows);
    part.column = pick(0, t.columns);
    part.rows = pick(0, t.rows - part.row);
    part.columns = pick(0, t.columns - part.column);
    expect_state(*c, static_cast<StateKind>(i % 3), t.name, part);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Reshard, testing::ValuesIn(shapes), [](const auto& p) {
  return fmt::format("world{}_tp{}_ep{}_etp{}", p.param.world, p.param.tp, p.param.ep, p.param.etp);
});

TEST(Reshard, KeepsAllThatTheManifestSays) {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(4);
  const Layout layout = make_layout(4, 2, 2, 1);
  save_as(folder.file("run"), model, layout, 123);
  for (const char* dir : {"run", "run/step_00000123"}) {
    const auto c = open_checkpoint(folder.file(dir));
    const CheckpointInfo info = c->info(), expected = some_info(model, 123);
    EXPECT_EQ(info.model, model);
    EXPECT_EQ(info.layout.tp, 2);
    EXPECT_EQ(info.layout.edp, layout.edp);
    EXPECT_EQ(info.step, 123);
    EXPECT_EQ(info.consumed_samples, expected.consumed_samples);
    EXPECT_EQ(info.tokens, expected.tokens);
    EXPECT_EQ(info.flops, expected.flops);
    EXPECT_EQ(info.wall_seconds, expected.wall_seconds);
    EXPECT_EQ(info.init, expected.init);
    EXPECT_EQ(info.config, expected.config);
    EXPECT_EQ(info.optimizer_steps.at("model.layers.1.block_sparse_moe.experts.3.w2.weight"), 6);
    EXPECT_EQ(info.optimizer_steps.size(), c->tensors().size());
    EXPECT_EQ(c->directory(), folder.file("run/step_00000123"));
    EXPECT_EQ(c->files().size(), 8u);
  }
}

TEST(Reshard, WeightsOnlyHasNoMoments) {
  const TemporaryFolder folder;
  save_as(folder.file("run"), small_model(0), make_layout(2, 1, 1, 1), 1, 0);
  const auto c = open_checkpoint(folder.file("run"));
  EXPECT_EQ(c->moments(), 0);
  expect_whole(*c, 0);
  float x = 0;
  expect_input_error(
      [&] {
        c->read_state(StateKind::Moment1, "model.norm.weight", {0, 0, 1, 1}, &x);
      },
      {"model.norm.weight", "optimizer"});
}

// As Lion leaves it, and as it is after another layout's files were made of it.
TEST(Reshard, OneMoment) {
  const TemporaryFolder folder;
  save_as(folder.file("run"), small_model(4), make_layout(2, 2, 1, 1), 1, 1);
  const auto c = open_checkpoint(folder.file("run"));
  reshard(*c, folder.file("resharded"), make_layout(4, 2, 2, 1));
  const auto again = open_checkpoint(folder.file("resharded"));
  float x = 0;
  for (Checkpoint* one : {c.get(), again.get()}) {
    EXPECT_EQ(one->moments(), 1);
    expect_whole(*one, 1);
    expect_input_error(
        [&] {
          one->read_state(StateKind::Moment2, "model.norm.weight", {0, 0, 1, 1}, &x);
        },
        {"model.norm.weight", "found 1 moments", "expected 2"});
  }
  EXPECT_EQ(open_checkpoint(folder.file("run"), true, nullptr, true)->moments(), 0);
}

// More files than stay open at once.
TEST(Reshard, ManyFiles) {
  const TemporaryFolder folder;
  save_as(folder.file("run"), small_model(0), make_layout(40, 1, 1, 1), 1);
  const auto c = open_checkpoint(folder.file("run"), false);
  expect_whole(*c);
}

}  // namespace
}  // namespace upcycle::test
