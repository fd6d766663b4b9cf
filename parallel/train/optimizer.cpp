#include "parallel/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/error.h"
#include "core/staging.h"
#include "data/hash.h"
#include "kernels/ops.h"
#include "parallel/model/weights.h"

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

namespace {

// Compares this rank's digests of some rows with those of the group's first rank; the first row that differs anywhere.
void compare_digests(Communicator& group, const std::vector<const ParamRow*>& rows, const std::string& digests) {
  const std::string first = group.broadcast_text(digests, 0);
  const std::size_t width = rows.empty() ? 1 : digests.size() / rows.size();
  double bad = -1;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (first.compare(i * width, width, digests, i * width, width) != 0)
      bad = std::max(bad, static_cast<double>(rows.size() - i));
  bad = group.max_of(bad);
  UPCYCLE_CHECK(bad < 0,
                "replicas of {} differ within {}: a rank computed another update; look at its memory and links",
                rows[rows.size() - static_cast<std::size_t>(bad)]->name, group.name());
}

}  // namespace

void check_replicas(Optimizer& o, const TrainMemory& memory) {
  o.arrivals->wait_all(*o.stream);
  std::vector<std::uint8_t> bytes;
  const auto check = [&](Communicator& group, auto wanted) {
    if (group.size() == 1) return;
    std::vector<const ParamRow*> rows;
    std::string digests;
    for (const ParamRow& row : o.table->rows) {
      if (!wanted(row)) continue;
      const Tensor t = view_row(row, memory.weights.dense, memory.weights.expert);
      bytes.resize(t.bytes());
      o.device->copy_to_host(*o.stream, bytes.data(), t.data, t.bytes());
      o.stream->synchronize();
      rows.push_back(&row);
      digests += hash_bytes(bytes.data(), bytes.size());
    }
    compare_digests(group, rows, digests);
  };
  check(*o.mesh->dp, [](const ParamRow& r) { return r.group == ParamGroup::Dense; });
  check(*o.mesh->edp, [](const ParamRow& r) { return r.group == ParamGroup::Expert; });
  check(*o.mesh->tp, [](const ParamRow& r) { return r.replicated_over_tp; });
}

}  // namespace upcycle
