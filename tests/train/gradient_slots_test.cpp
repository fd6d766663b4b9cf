#include "parallel/train/gradient_slots.h"

#include <gtest/gtest.h>

#include "tests/train/rig.h"

namespace upcycle {
namespace {

struct Range {
  std::int64_t begin, end;
  bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
};

// Of a part's slots: the dense one, and the experts' behind it.
Range slots_of(const GradientSlots& slots, const ParamTable& table, std::int64_t layer) {
  Range range{slots.size, 0};
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
    for (const Bucket& b : table.group(g).buckets) {
      if (b.layer != layer || !slots.serve(g)) continue;
      const auto begin = slots.of(g, b).as<float>() - slots.memory.as<float>();
      EXPECT_TRUE(range.end == 0 || range.end == begin);
      range = {std::min<std::int64_t>(range.begin, begin), begin + b.end - b.begin};
    }
  return range;
}

class Slots : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(Slots, APartIsReducedWhileTheNextIsComputed) {
  const auto [tied, both] = GetParam();
  Config c = small_moe_config();
  c.model.tie_word_embeddings = tied;
  c.model.num_hidden_layers = 5;
  c.model.moe_every_n_layers = 2;
  const ParamTable table = make_param_table(c.model, {.world = 2, .dp = 2, .edp = 2}, {});
  const auto device = make_cpu_device();
  Arena arena("gradients");
  const SlotNeeds needs{true, both};
  (void)take_slots(arena, table, needs);
  arena.allocate(*device);
  const GradientSlots slots = take_slots(arena, table, needs);
  EXPECT_EQ(slots.serve(ParamGroup::Expert), both);
  std::int64_t largest = 0, sum = 0;
  const std::int64_t L = c.model.num_hidden_layers;
  for (std::int64_t layer = L; layer >= -1; --layer) {
    const Range here = slots_of(slots, table, layer);
    EXPECT_GE(here.begin, 0);
    EXPECT_LE(here.end, slots.size);
    if (layer < L) {
      EXPECT_FALSE(here.overlaps(slots_of(slots, table, layer + 1))) << layer;
    }
    // A tied embedding's gradients begin with the head's and end with its own.
    if (layer >= 0 && tied) {
      EXPECT_FALSE(here.overlaps(slots_of(slots, table, -1))) << layer;
    }
    largest = std::max(largest, here.end - here.begin);
    sum += here.end - here.begin;
  }
  EXPECT_LE(slots.size, (tied ? 3 : 2) * largest);
  EXPECT_LT(slots.size, sum);
}

INSTANTIATE_TEST_SUITE_P(Models, Slots, ::testing::Combine(::testing::Bool(), ::testing::Bool()), [](const auto& info) {
  return std::string(std::get<0>(info.param) ? "Tied" : "Untied") +
         (std::get<1>(info.param) ? "AllParameters" : "Dense");
});

TEST(Slots, AreNoneWhereNobodyNeedsThem) {
  Arena arena("gradients");
  EXPECT_EQ(take_slots(arena, make_global_table(small_config().model), {}).size, 0);
  EXPECT_EQ(arena.high_water(), 0u);
}

}  // namespace
}  // namespace upcycle
