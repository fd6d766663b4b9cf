#include "parallel/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/staging.h"
#include "kernels/ops.h"
#include "parallel/model/weights.h"
#include "parallel/train/copies.h"
#include "parallel/train/findings.h"
#include "parallel/train/owned_state.h"
#include "parallel/train/wrong_number.h"

namespace upcycle {
namespace {

// The parts of rows replicated over tp that this rank owns. tp ranks of one dp rank have the same: their flat buffers
// are laid out alike.
std::vector<OwnedRange> replicated_ranges(const ParamTable& table, const Coordinates& at) {
  std::vector<OwnedRange> ranges;
  for (const OwnedPiece& p : owned_pieces(table, at, true)) {
    if (!p.row->replicated_over_tp) continue;
    if (ranges.empty() || ranges.back().end != p.flat) ranges.push_back({p.flat, p.flat});
    ranges.back().end = p.flat + p.part.size();
  }
  return ranges;
}

}  // namespace

void check_freeze(const ModelConfig& model, const std::vector<std::string>& patterns) {
  const ParamTable table = make_global_table(model);
  for (const std::string& pattern : patterns) {
    const auto matches = [&](const ParamRow& row) { return fnmatch(pattern.c_str(), row.name.c_str(), 0) == 0; };
    if (std::none_of(table.rows.begin(), table.rows.end(), matches))
      input_error(
          "train.freeze: no parameter is named like '{}'; names look like '{}' and `upcycle inspect` lists them",
          pattern, table.rows.back().name);
  }
}

Optimizer make_optimizer(const ParamTable& table, Arrivals& arrivals, const Mesh& mesh, Device& device, Ops& ops,
                         Stream& stream, Workspace workspace, const Config& run) {
  const TrainConfig& config = run.train;
  Optimizer o{&table, &arrivals, &mesh, &device, &ops, &stream, workspace, config, {}, {},
              {},     {},        {},    {},      {},   {},      {},        {},     {}};
  if (mesh.layout.tp > 1) o.replicated = replicated_ranges(table, mesh.at);
  const std::size_t buckets = table.dense.buckets.size() + table.expert.buckets.size();
  o.sums.reserve(buckets);
  o.sums_over_tp.reserve(o.replicated.size());
  arrivals.reserve(buckets);
  for (const ParamRow& row : table.rows)
    o.frozen.push_back(std::any_of(config.freeze.begin(), config.freeze.end(), [&](const std::string& pattern) {
      return fnmatch(pattern.c_str(), row.name.c_str(), 0) == 0;
    }));
  for (const ParamRow& row : table.rows) o.rates.push_back(rate_of(config, row));
  o.row_steps.assign(table.rows.size(), 0);
  for (const ParamRow& row : table.rows)
    o.draws.push_back({static_cast<std::uint64_t>(run.seed), rng::key_of("moments of " + row.name)});
  const auto is_frozen = [&](const OwnedPiece& p) { return o.frozen[o.index_of(p)] != 0; };
  o.updated = owned_pieces(table, mesh.at, true);
  o.counted = owned_pieces(table, mesh.at, false);
  const auto is_bias = [](const OwnedPiece& p) { return p.row->role == ParamRole::RouterBias; };
  std::erase_if(o.updated, is_frozen);
  std::erase_if(o.counted, is_frozen);
  std::copy_if(o.updated.begin(), o.updated.end(), std::back_inserter(o.biases), is_bias);
  std::erase_if(o.updated, is_bias);
  std::erase_if(o.counted, is_bias);
  return o;
}

void masters_from_weights(Optimizer& o, TrainMemory& memory) {
  if (!memory.separate_masters()) return;
  if (memory.form.split_masters) {
    for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
      for (const FlatPair& nothing : {memory.master, memory.ties})
        if (nothing.of(g).size() > 0) o.ops->fill(*o.stream, nothing.of(g), 0);
    return;
  }
  Staging staging(*o.device, *o.stream);
  for (const OwnedPiece& p : owned_pieces(*o.table, o.mesh->at, true)) {
    if (memory.host_state.allocated())
      read_floats(staging, piece_of(memory.weights, p), master_piece(memory, p).as<float>());
    else
      o.ops->convert(*o.stream, master_piece(memory, p), piece_of(memory.weights, p));
  }
}

void check_replicas(Optimizer& o, const TrainMemory& memory) {
  o.arrivals->wait_all(*o.stream);
  Staging staging(*o.device, *o.stream), states = state_staging(memory, *o.device, *o.stream);
  std::vector<Copy> dense, expert, over_tp;
  for (const ParamRow& row : o.table->rows) {
    const bool other = o.replicas(row.group).size() > 1, tp = row.replicated_over_tp && o.mesh->tp->size() > 1;
    if (!other && !tp) continue;
    const Copy copy{row.name, digest_of(staging, view_row(row, memory.weights.dense, memory.weights.expert))};
    if (other) (row.group == ParamGroup::Dense ? dense : expert).push_back(copy);
    if (tp) over_tp.push_back(copy);
  }
  if (o.mesh->tp->size() > 1)
    for (const OwnedPiece& p : o.updated) {
      if (!p.row->replicated_over_tp) continue;
      const auto add = [&](const char* what, const Tensor& x) {
        if (x.data != nullptr) over_tp.push_back({p.row->name + what, digest_of(states, x)});
      };
      if (memory.separate_masters()) add(" (master)", state_piece(memory, StateKind::Master, p).values);
      add(" (master)", ties_of(memory, p));
      if (memory.form.moments > 0) add(" (first moment)", state_piece(memory, StateKind::Moment1, p).values);
      if (memory.form.moments > 1) add(" (second moment)", state_piece(memory, StateKind::Moment2, p).values);
    }
  const std::string here = rank_and_host(*o.mesh);
  DifferentCopy found = compare_copies(*o.mesh->dp, dense, here);
  const DifferentCopy of_experts = compare_copies(*o.mesh->edp, expert, here),
                      of_tp = compare_copies(*o.mesh->tp, over_tp, here);
  for (const DifferentCopy* other : {&of_experts, &of_tp})
    if (found.place < 0) found = *other;
  const std::string text = earliest(*o.mesh->world, found.place, found.text);
  if (!text.empty()) throw WrongNumber(text);
}

}  // namespace upcycle
