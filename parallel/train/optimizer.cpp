#include "parallel/train/optimizer.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/error.h"
#include "data/hash.h"
#include "kernels/ops.h"
#include "parallel/model/weights.h"

namespace upcycle {
namespace {

Communicator& replicas(const Optimizer& o, ParamGroup g) { return g == ParamGroup::Dense ? *o.mesh->dp : *o.mesh->edp; }

std::size_t index_of(const Optimizer& o, const OwnedPiece& p) {
  return static_cast<std::size_t>(p.row - o.table->rows.data());
}

constexpr ParamGroup kGroups[] = {ParamGroup::Dense, ParamGroup::Expert};

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
                         Stream& stream, Workspace workspace, const TrainConfig& config) {
  Optimizer o{&table, &arrivals, &mesh, &device, &ops, &stream, workspace, config, {}, {}, {}, {}, {}, {}, {}};
  if (mesh.layout.tp > 1) o.replicated = replicated_ranges(table, mesh.at);
  const std::size_t buckets = table.dense.buckets.size() + table.expert.buckets.size();
  o.sums.reserve(buckets);
  o.sums_over_tp.reserve(o.replicated.size());
  arrivals.reserve(buckets);
  for (const ParamRow& row : table.rows)
    o.frozen.push_back(std::any_of(config.freeze.begin(), config.freeze.end(), [&](const std::string& pattern) {
      return fnmatch(pattern.c_str(), row.name.c_str(), 0) == 0;
    }));
  o.row_steps.assign(table.rows.size(), 0);
  const auto is_frozen = [&](const OwnedPiece& p) { return o.frozen[index_of(o, p)] != 0; };
  o.updated = owned_pieces(table, mesh.at, true);
  o.counted = owned_pieces(table, mesh.at, false);
  std::erase_if(o.updated, is_frozen);
  std::erase_if(o.counted, is_frozen);
  return o;
}

void zero_gradients(Optimizer& o, TrainMemory& memory) {
  for (const ParamGroup g : kGroups)
    if (memory.grads.of(g).size() > 0) o.ops->fill(*o.stream, memory.grads.of(g), 0);
}

void start_reduction(Optimizer& o, TrainMemory& memory, std::int64_t layer) {
  for (const ParamGroup g : kGroups) {
    const FlatGroup& flat = o.table->group(g);
    const Tensor& grads = memory.grads.of(g);
    for (const Bucket& b : flat.buckets) {
      if (b.layer != layer) continue;
      const Tensor mine = grads.slice_rows(flat.owned_begin(b), flat.owned_end(b));
      o.sums.push_back({&b, g, replicas(o, g).reduce_scatter(mine, grads.slice_rows(b.begin, b.end))});
    }
  }
}

void finish_reduction(Optimizer& o, TrainMemory& memory) {
  for (const BucketSum& sum : o.sums) {
    o.stream->wait(sum.event);
    if (sum.group != ParamGroup::Dense) continue;
    for (const OwnedRange& r : o.replicated)
      if (r.begin >= sum.bucket->begin && r.begin < sum.bucket->end)
        o.sums_over_tp.push_back(o.mesh->tp->all_reduce(memory.grads.dense.slice_rows(r.begin, r.end)));
  }
  o.sums.clear();
  for (const Event& sum : o.sums_over_tp) o.stream->wait(sum);
  o.sums_over_tp.clear();
}

void start_norm(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  o.ops->fill(*o.stream, memory.sum_squares, 0);
  for (const OwnedPiece& p : o.counted)
    o.ops->sum_squares(*o.stream, o.workspace, memory.sum_squares, piece_of(memory.grads, p));
  o.device->copy_to_host(*o.stream, &sum_squares, memory.sum_squares.data, sizeof sum_squares);
}

void clip_gradients(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  sum_squares = o.mesh->world->sum_of(sum_squares);
  o.device->copy_from_host(*o.stream, memory.sum_squares.data, &sum_squares, sizeof sum_squares);
  o.ops->clip_scale(*o.stream, memory.scale, memory.sum_squares, static_cast<float>(o.config.clip_grad));
}

namespace {

void update_piece(Optimizer& o, TrainMemory& memory, const OwnedPiece& p, double lr) {
  const Tensor param = piece_of(memory.weights, p), master = master_piece(memory, p), grad = piece_of(memory.grads, p);
  const auto decay = static_cast<float>(p.row->weight_decay ? o.config.weight_decay : 0);
  if (o.config.optimizer == "sgd") {
    o.ops->sgd(*o.stream, param, master, grad, memory.scale, static_cast<float>(lr), decay);
    return;
  }
  if (o.config.optimizer == "lion") {
    o.ops->lion(
        *o.stream, param, master, shard_piece_of(memory.m, p), grad, memory.scale,
        {static_cast<float>(lr), static_cast<float>(o.config.beta1), static_cast<float>(o.config.beta2), decay});
    return;
  }
  const AdamwStep step{static_cast<float>(lr),
                       static_cast<float>(o.config.beta1),
                       static_cast<float>(o.config.beta2),
                       static_cast<float>(o.config.eps),
                       decay,
                       o.row_steps[index_of(o, p)]};
  o.ops->adamw(*o.stream, param, master, shard_piece_of(memory.m, p), shard_piece_of(memory.v, p), grad, memory.scale,
               step);
}

Event gather_bucket(Optimizer& o, TrainMemory& memory, ParamGroup g, const Bucket& b) {
  const FlatGroup& flat = o.table->group(g);
  const Tensor& weights = memory.weights.of(g);
  return replicas(o, g).all_gather(weights.slice_rows(b.begin, b.end),
                                   weights.slice_rows(flat.owned_begin(b), flat.owned_end(b)));
}

}  // namespace

void update_parameters(Optimizer& o, TrainMemory& memory, double lr) {
  o.arrivals->wait_all(*o.stream);  // in case no forward came between
  for (std::size_t i = 0; i < o.row_steps.size(); ++i)
    if (o.frozen[i] == 0) ++o.row_steps[i];
  auto piece = o.updated.begin();  // in the order of rows, which is the parts' too
  auto expert = o.table->expert.buckets.begin();
  for (const Bucket& part : o.table->dense.buckets) {  // every part has some
    for (; piece != o.updated.end() && o.table->bucket_of(*piece->row).layer == part.layer; ++piece)
      update_piece(o, memory, *piece, lr);
    o.arrivals->add(part.layer, gather_bucket(o, memory, ParamGroup::Dense, part));
    if (expert != o.table->expert.buckets.end() && expert->layer == part.layer)
      o.arrivals->add(part.layer, gather_bucket(o, memory, ParamGroup::Expert, *expert++));
  }
  UPCYCLE_CHECK(piece == o.updated.end() && expert == o.table->expert.buckets.end(), "a part was not updated");
}

void gather_parameters(Optimizer& o, TrainMemory& memory, ParamGroup group) {
  for (const Bucket& b : o.table->group(group).buckets) o.arrivals->add(b.layer, gather_bucket(o, memory, group, b));
  o.arrivals->wait_all(*o.stream);
}

void masters_from_weights(Optimizer& o, TrainMemory& memory) {
  if (memory.weights.dense.dtype == DType::F32) return;
  for (const OwnedPiece& p : owned_pieces(*o.table, o.mesh->at, true))
    o.ops->convert(*o.stream, master_piece(memory, p), piece_of(memory.weights, p));
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
