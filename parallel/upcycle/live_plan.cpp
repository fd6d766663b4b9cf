#include "parallel/upcycle/live_plan.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/check.h"
#include "parallel/model/rectangles.h"
#include "parallel/upcycle/dense_statistics.h"

namespace upcycle {
namespace {

struct RankTables {
  Coordinates at;
  ParamTable dense, moe;
  RankTables(const ModelConfig& from, const ModelConfig& to, const Layout& layout, int rank)
      : at(coordinates_of(layout, rank)),
        dense(make_param_table(from, layout, at)),
        moe(make_param_table(to, layout, at)) {}
  // To a rank that holds the same slices.
  void move_to(const Coordinates& other) {
    at = other;
    dense.dense.rank = moe.dense.rank = at.dp;
    dense.expert.rank = moe.expert.rank = at.edp;
  }
};

std::size_t index_in(const ParamTable& table, const ParamRow& row) {
  return static_cast<std::size_t>(&row - table.rows.data());
}

// What a rank must have of each dense parameter for the pieces that it will own: disjoint rectangles, so that nothing
// is sent twice, however many of its experts are made of it.
std::vector<std::vector<Rectangle>> needs_of(LiveState state, const RankTables& t, const ExpertMaker& maker) {
  std::vector<std::vector<Rectangle>> needs(t.dense.rows.size());
  for (const OwnedPiece& p : owned_pieces(t.moe, t.at, true)) {
    if (state == LiveState::Moments && retained_tensor(*p.row).empty()) continue;
    const Origin from = maker.origin(*p.row, p.part);
    if (!from.tensor.empty()) needs[t.dense.places.at(from.tensor)].push_back(from.part);
  }
  for (auto& rectangles : needs) rectangles = disjoint(rectangles);
  return needs;
}

// Everything that the owner of `pieces` has of `needs`, in an order that both ends compute.
void add_transfers(std::vector<Transfer>& out, int peer, const ParamTable& table, const std::vector<OwnedPiece>& pieces,
                   const std::vector<std::vector<Rectangle>>& needs, bool same_tp) {
  for (const OwnedPiece& p : pieces) {
    // Each tp rank keeps its own copy of what is replicated there.
    if (p.row->replicated_over_tp && !same_tp) continue;
    const std::size_t row = index_in(table, *p.row);
    for (const Rectangle& need : needs[row]) {
      const Rectangle part = intersection(p.part, need);
      if (part.size() == 0) continue;
      const std::int64_t at = (part.row - p.part.row) * p.part.columns + part.column - p.part.column;
      out.push_back({0, peer, row, part, p.shard + at, p.part.columns});
    }
  }
}

// Cuts a transfer into parts that each lie in one stretch of the sender's optimizer buffers, whose rows have gaps where
// the receiver needs only some columns.
template <class Use>
void cut_at_stretches(const Transfer& t, std::int64_t stretch, const Use& use) {
  for (std::int64_t r = 0; r < t.part.rows;) {
    const std::int64_t at = t.shard + r * t.width, room = (at / stretch + 1) * stretch - at;
    if (room >= t.part.columns) {
      const std::int64_t rows = std::min(t.part.rows - r, (room - t.part.columns) / t.width + 1);
      use(Transfer{at / stretch, t.peer, t.row, {t.part.row + r, t.part.column, rows, t.part.columns}, at, t.width});
      r += rows;
      continue;
    }
    for (std::int64_t c = 0, end; c < t.part.columns; c = end) {
      const std::int64_t round = (at + c) / stretch;
      end = std::min(t.part.columns, (round + 1) * stretch - at);
      use(Transfer{round, t.peer, t.row, {t.part.row + r, t.part.column + c, 1, end - c}, at + c, t.width});
    }
    ++r;
  }
}

}  // namespace

std::int64_t LiveExchange::sent() const {
  std::int64_t elements = 0;
  for (const Transfer& t : sends) elements += t.part.size();
  return elements;
}

LiveExchange plan_exchange(LiveState state, const ModelConfig& dense, const ExpertMaker& maker, const Layout& layout,
                           int rank) {
  const RankTables mine(dense, maker.model(), layout, rank);
  const auto my_pieces = owned_pieces(mine.dense, mine.at, true);
  const auto my_needs = needs_of(state, mine, maker);
  LiveExchange plan;
  plan.shard_size = mine.dense.dense.shard_size;
  // Ranks that differ only in dp and edp hold the same slices and own other parts of them.
  const int period = std::lcm(layout.tp, layout.etp * layout.ep);
  for (int first = 0; first < period; ++first) {
    RankTables theirs(dense, maker.model(), layout, first);
    const bool same_tp = theirs.at.tp == mine.at.tp;
    for (int peer = first; peer < layout.world; peer += period) {
      theirs.move_to(coordinates_of(layout, peer));
      add_transfers(plan.sends, peer, mine.dense, my_pieces, needs_of(state, theirs, maker), same_tp);
      add_transfers(plan.receives, peer, theirs.dense, owned_pieces(theirs.dense, theirs.at, true), my_needs, same_tp);
    }
  }
  for (auto* list : {&plan.sends, &plan.receives})
    std::stable_sort(list->begin(), list->end(), [](const Transfer& a, const Transfer& b) { return a.peer < b.peer; });
  std::int64_t needed = 0, received = 0;
  for (const auto& rectangles : my_needs)
    for (const Rectangle& r : rectangles) needed += r.size();
  for (const Transfer& t : plan.receives) received += t.part.size();
  UPCYCLE_CHECK(needed == received, "{} elements needed, {} have an owner", needed, received);
  return plan;
}

std::int64_t longest_stretch(const LiveExchange& plan, int world, std::int64_t buffer_elements) {
  // An element goes to at most every rank, and comes from at most every rank at once: a cell always fits.
  const std::int64_t cell = std::max<std::int64_t>(1, buffer_elements / world);
  const std::int64_t cells = (plan.shard_size + cell - 1) / cell;
  std::int64_t longest = cells;
  for (const auto* list : {&plan.sends, &plan.receives}) {
    std::vector<std::int64_t> filled(static_cast<std::size_t>(cells), 0);
    for (const Transfer& whole : *list)
      cut_at_stretches(whole, cell,
                       [&](const Transfer& t) { filled[static_cast<std::size_t>(t.round)] += t.part.size(); });
    // The longest run of cells that fits wherever it begins: then every shorter one does too, and ranks may take the
    // shortest of theirs.
    std::int64_t end = 0, elements = 0;
    for (std::int64_t begin = 0; begin < cells && end < cells; ++begin) {
      while (end < cells && (end == begin || elements + filled[static_cast<std::size_t>(end)] <= buffer_elements))
        elements += filled[static_cast<std::size_t>(end++)];
      if (end < cells) longest = std::min(longest, end - begin);
      elements -= filled[static_cast<std::size_t>(begin)];
    }
  }
  return std::max<std::int64_t>(1, longest) * cell;
}

void cut_into_rounds(LiveExchange& plan, std::int64_t stretch) {
  for (auto* list : {&plan.sends, &plan.receives}) {
    std::vector<Transfer> cut;
    for (const Transfer& whole : *list) cut_at_stretches(whole, stretch, [&](const Transfer& t) { cut.push_back(t); });
    std::stable_sort(cut.begin(), cut.end(), [](const Transfer& a, const Transfer& b) {
      return std::tie(a.round, a.peer) < std::tie(b.round, b.peer);
    });
    *list = std::move(cut);
  }
  plan.rounds = (plan.shard_size + stretch - 1) / stretch;
}

bool experts_are_local(const ModelConfig& dense, const ExpertMaker& maker, const Layout& layout, int rank) {
  for (int tp = 0; tp < layout.tp; ++tp) {
    const RankTables t(dense, maker.model(), layout, rank / layout.tp * layout.tp + tp);
    for (const ParamRow& row : t.moe.rows) {
      if (row.expert < 0) continue;
      const Origin from = maker.origin(row, row.part);
      if (from.tensor.empty()) continue;
      if (intersection(from.part, t.dense.find(from.tensor)->part) != from.part) return false;
    }
  }
  return true;
}

LiveBytes plan_live(const ModelConfig& dense, const Config& moe, const Layout& layout, int rank) {
  const ExpertMaker maker(moe.model, moe.upcycle, static_cast<std::uint64_t>(moe.seed), {});
  const bool bf16_run = moe.storage() == DType::BF16;
  LiveBytes bytes;
  if (moe.upcycle.drop_ratio > 0) bytes.statistics = statistics_bytes(moe.model);
  if (bf16_run && !maker.commutes_with_rounding()) {
    const ParamTable table = make_param_table(moe.model, layout, coordinates_of(layout, rank));
    bytes.working_edp = table.expert.shard_size * static_cast<std::int64_t>(size_of(DType::BF16));
  } else if (!experts_are_local(dense, maker, layout, rank)) {
    const ParamTable table = make_param_table(dense, layout, coordinates_of(layout, rank));
    for (const MlpRange& range : mlp_ranges(table, moe.model))
      bytes.working_tp += (range.end - range.begin) * static_cast<std::int64_t>(size_of(moe.storage()));
  }
  const auto fp32_bytes = [&](LiveState state) {
    bytes.agreement += static_cast<std::int64_t>(sizeof(double));
    return plan_exchange(state, dense, maker, layout, rank).sent() * static_cast<std::int64_t>(sizeof(float));
  };
  if (bf16_run) bytes.masters = fp32_bytes(LiveState::Masters);
  if (const int moments = moe.train.moments(); moments > 0) bytes.moments = moments * fp32_bytes(LiveState::Moments);
  return bytes;
}

std::vector<MlpRange> mlp_ranges(const ParamTable& dense, const ModelConfig& moe) {
  std::vector<MlpRange> ranges;
  const std::vector<DenseMatrix> matrices = expert_origins(moe);
  for (std::size_t i = 0; i + 2 < matrices.size(); i += 3) {
    const ParamRow &gate = *dense.find(matrices[i].name), &down = *dense.find(matrices[i + 2].name);
    ranges.push_back({gate.layer, gate.offset, down.offset + down.size()});
  }
  return ranges;
}

}  // namespace upcycle
