#include "parallel/upcycle/live_plan.h"

#include <algorithm>
#include <array>
#include <map>

#include "parallel/model/rectangles.h"
#include "tests/upcycle/models.h"

// Who sends what, for many ranks at once, in one process.
namespace upcycle::test {
namespace {

Config big_enough() {
  Config c = small_config();
  c.dtype = "bf16";
  c.model.num_attention_heads = c.model.num_key_value_heads = 8;
  c.model.intermediate_size = 80;
  return c;
}

Config moe_of(const Config& dense, const UpcycleConfig& upcycle, const ModelConfig& target) {
  Config c = dense;
  c.upcycle = upcycle;
  c.model = upcycled_model(dense.model, target, upcycle, "test");
  return c;
}

std::vector<Layout> layouts() {
  return {make_layout(1, 1, 1, 1),  make_layout(6, 1, 2, 1),  make_layout(8, 2, 4, 1),  make_layout(8, 2, 2, 2),
          make_layout(16, 4, 8, 1), make_layout(16, 8, 1, 8), make_layout(32, 4, 4, 4), make_layout(64, 8, 8, 1)};
}

std::vector<Config> targets(const Config& dense) {
  ModelConfig shared = experts(8, 2);
  shared.shared_expert = true;
  return {moe_of(dense, {}, experts(8, 2)), moe_of(dense, {"virtual_group", "down"}, experts(16, 4, 40)),
          moe_of(dense, {"copy", "none", 0.3, 0.01}, shared)};
}

using Key = std::tuple<std::int64_t, std::size_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
Key key_of(const Transfer& t) { return {t.round, t.row, t.part.row, t.part.column, t.part.rows, t.part.columns}; }

// Every rank's plan, cut into the rounds that communicating ranks would agree on.
std::vector<LiveExchange> plans_of(LiveState state, const Config& dense, const Config& moe, const Layout& layout,
                                   std::int64_t buffer) {
  const ExpertMaker maker(moe.model, moe.upcycle, 1, {});
  std::vector<LiveExchange> plans;
  for (int rank = 0; rank < layout.world; ++rank)
    plans.push_back(plan_exchange(state, dense.model, maker, layout, rank));
  std::int64_t stretch = plans[0].shard_size;
  for (const LiveExchange& plan : plans) stretch = std::min(stretch, longest_stretch(plan, layout.world, buffer));
  for (LiveExchange& plan : plans) cut_into_rounds(plan, stretch);
  return plans;
}

std::map<std::int64_t, std::int64_t> elements_by_round(const std::vector<Transfer>& all) {
  std::map<std::int64_t, std::int64_t> sums;
  for (const Transfer& t : all) sums[t.round] += t.part.size();
  return sums;
}

// Both ends of a pair list the same rectangles in the same order, and no round passes the buffers.
TEST(LivePlan, SendersAndReceiversAgreeWithinTheBuffers) {
  const Config dense = big_enough();
  for (const std::int64_t buffer : {64, 700, 1 << 20})
    for (const Layout& layout : layouts())
      for (const Config& moe : targets(dense))
        for (const LiveState state : {LiveState::Masters, LiveState::Moments}) {
          std::map<std::pair<int, int>, std::vector<Key>> sent, received;
          const std::vector<LiveExchange> plans = plans_of(state, dense, moe, layout, buffer);
          for (int rank = 0; rank < layout.world; ++rank) {
            const LiveExchange& plan = plans[static_cast<std::size_t>(rank)];
            EXPECT_EQ(plan.rounds, plans[0].rounds);
            for (const Transfer& t : plan.sends) {
              sent[{rank, t.peer}].push_back(key_of(t));
              EXPECT_LT(t.round, plan.rounds);
            }
            for (const Transfer& t : plan.receives) received[{t.peer, rank}].push_back(key_of(t));
            for (const auto* list : {&plan.sends, &plan.receives})
              for (const auto& [round, elements] : elements_by_round(*list)) EXPECT_LE(elements, buffer) << round;
          }
          EXPECT_TRUE(sent == received) << layout.world << " ranks, tp " << layout.tp;
        }
}

// Cut or not, the same elements of the same places are sent.
TEST(LivePlan, RoundsCutATransferAtTheSendersStretches) {
  const Config dense = big_enough();
  const Config moe = moe_of(dense, {}, experts(8, 2));
  const ExpertMaker maker(moe.model, moe.upcycle, 1, {});
  const Layout layout = make_layout(8, 2, 4, 1);
  const LiveExchange whole = plan_exchange(LiveState::Masters, dense.model, maker, layout, 5);
  const auto elements = [](const std::vector<Transfer>& all) {
    std::vector<std::array<std::int64_t, 5>> places;  // peer, table row, matrix row, column, place
    for (const Transfer& t : all)
      for (std::int64_t r = 0; r < t.part.rows; ++r)
        for (std::int64_t c = 0; c < t.part.columns; ++c)
          places.push_back(
              {t.peer, static_cast<std::int64_t>(t.row), t.part.row + r, t.part.column + c, t.shard + r * t.width + c});
    std::sort(places.begin(), places.end());
    return places;
  };
  for (const std::int64_t stretch : {1, 7, 24, 31, 100, 5000}) {
    LiveExchange cut = whole;
    cut_into_rounds(cut, stretch);
    EXPECT_EQ(cut.rounds, (whole.shard_size + stretch - 1) / stretch);
    EXPECT_EQ(cut.sent(), whole.sent());
    EXPECT_TRUE(elements(cut.sends) == elements(whole.sends)) << stretch;
    EXPECT_TRUE(elements(cut.receives) == elements(whole.receives)) << stretch;
    for (const auto* list : {&cut.sends, &cut.receives}) {
      for (const Transfer& t : *list) {
        EXPECT_EQ(t.shard / stretch, t.round);
        EXPECT_EQ((t.shard + (t.part.rows - 1) * t.width + t.part.columns - 1) / stretch, t.round);
      }
    }
  }
}

// The number of rounds follows what ranks really send, not the worst case for a world of this size.
TEST(LivePlan, RoundsFillTheBuffers) {
  const Config dense = big_enough();
  const Config moe = moe_of(dense, {}, experts(8, 2));
  for (const Layout& layout : {make_layout(64, 8, 8, 1), make_layout(64, 1, 8, 1), make_layout(128, 4, 8, 1)}) {
    constexpr std::int64_t kBuffer = 256;
    const std::vector<LiveExchange> plans = plans_of(LiveState::Masters, dense, moe, layout, kBuffer);
    std::int64_t most = 0;
    for (const LiveExchange& plan : plans)
      for (const auto* list : {&plan.sends, &plan.receives})
        for (const auto& [round, elements] : elements_by_round(*list)) most = std::max(most, elements);
    EXPECT_GT(most, kBuffer / 2);
    // Each element has eight copies of its expert to become: a bound of the world's size would need eight times this.
    EXPECT_LE(plans[0].rounds, plans[0].shard_size * 32 / kBuffer + 1) << layout.world;
  }
}

// A matrix that stays goes to one owner; of an MLP each rank with an expert of it gets what it will own, once.
TEST(LivePlan, NothingMovesTwice) {
  const Config dense = big_enough();
  const Config moe = moe_of(dense, {}, experts(8, 2));
  const ExpertMaker maker(moe.model, moe.upcycle, 1, {});
  const Layout layout = make_layout(8, 1, 2, 1);  // 4 experts per rank, their state over edp = 4
  std::int64_t total = 0, moments = 0;
  for (int rank = 0; rank < layout.world; ++rank) {
    total += plan_exchange(LiveState::Masters, dense.model, maker, layout, rank).sent();
    moments += plan_exchange(LiveState::Moments, dense.model, maker, layout, rank).sent();
  }
  std::int64_t stays = 0, mlp = 0;
  for (const ParamRow& row : make_global_table(dense.model).rows)
    (row.name.find(".mlp.") == std::string::npos ? stays : mlp) += row.global_size();
  EXPECT_EQ(moments, stays);
  EXPECT_LE(total, stays + 8 * mlp);  // every expert's masters from somewhere...
  EXPECT_LT(total, stays + 6 * mlp);  // ...but a rank that owns the same part of two experts gets it once
  EXPECT_GE(total, stays + 2 * mlp);
}

TEST(LivePlan, WorkingWeightsMoveOnlyWhereTheyMust) {
  const Config dense = big_enough();
  const Config copies = moe_of(dense, {}, experts(8, 2)),
               noise = moe_of(dense, {"copy", "none", 0, 0.1}, experts(8, 2)),
               drop = moe_of(dense, {"copy", "none", 0.5, 0}, experts(8, 2)),
               groups = moe_of(dense, {"virtual_group", "down"}, experts(16, 4, 40));
  const Layout etp = make_layout(8, 2, 4, 2), folded = make_layout(8, 2, 4, 1), plain = make_layout(8, 1, 4, 1);
  for (const Layout& layout : {etp, plain}) {
    const LiveBytes b = plan_live(dense.model, copies, layout, 3);
    EXPECT_EQ(b.working_tp + b.working_edp + b.statistics, 0);
    EXPECT_GT(b.masters, 0);
  }
  const std::int64_t half_mlp = 3 * 24 * 80 / 2;
  EXPECT_EQ(plan_live(dense.model, copies, folded, 3).working_tp, 2 * 2 * half_mlp);  // layers, bytes
  EXPECT_EQ(plan_live(dense.model, groups, plain, 3).working_tp, 0);
  EXPECT_GT(plan_live(dense.model, groups, etp, 3).working_tp, 0);  // slices straddle
  EXPECT_EQ(plan_live(dense.model, noise, folded, 3).working_tp, 0);
  EXPECT_GT(plan_live(dense.model, noise, folded, 3).working_edp, 0);
  EXPECT_EQ(plan_live(dense.model, drop, folded, 3).statistics, 2 * 3 * 9 * 8);

  Config fp32 = noise;
  fp32.dtype = "fp32";
  const LiveBytes b = plan_live(dense.model, fp32, folded, 3);
  EXPECT_EQ(b.masters + b.working_edp, 0);
  EXPECT_EQ(b.working_tp, 2 * 4 * half_mlp);
  EXPECT_GT(b.moments, 0);
}

TEST(Rectangles, DisjointOnesCoverTheSameOnce) {
  std::uint64_t state = 1;
  const auto draw = [&](std::int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int64_t>((state >> 33) % static_cast<std::uint64_t>(n));
  };
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Rectangle> given;
    std::vector<int> want(144, 0), got(144, 0);
    for (std::int64_t i = draw(7); i >= 0; --i) {
      const std::int64_t r = draw(12), c = draw(12);
      given.push_back({r, c, 1 + draw(12 - r), 1 + draw(12 - c)});
    }
    const auto paint = [](std::vector<int>& on, const Rectangle& r) {
      for (std::int64_t i = r.row; i < r.row + r.rows; ++i)
        for (std::int64_t j = r.column; j < r.column + r.columns; ++j) ++on[static_cast<std::size_t>(i * 12 + j)];
    };
    for (const Rectangle& r : given) paint(want, r);
    for (const Rectangle& r : disjoint(given)) paint(got, r);
    for (int& x : want) x = x > 0 ? 1 : 0;
    EXPECT_TRUE(want == got);
  }
  EXPECT_TRUE(disjoint({}).empty());
  EXPECT_EQ(disjoint({{0, 0, 4, 5}, {0, 0, 4, 5}}).size(), 1u);
}

}  // namespace
}  // namespace upcycle::test
