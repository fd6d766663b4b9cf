#include "parallel/train/trainer_state.h"

#include <algorithm>
#include <map>
#include <span>

#include "core/check.h"
#include "core/error.h"
#include "parallel/model/weights.h"
#include "parallel/train/owned_state.h"

namespace upcycle {
namespace {

constexpr std::size_t kBuffer = std::size_t{32} << 20;
constexpr std::size_t kBlock = std::size_t{1} << 20;  // of moments: stays in a cache until it is stored

// Reads a piece in rows that fit the buffer.
void restore_moment(Checkpoint& checkpoint, StateKind kind, const OwnedPiece& p, Staging& staging, const Tensor& to) {
  const std::int64_t width = p.part.columns;
  const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(kBlock / sizeof(float)) / width);
  std::vector<float> buffer(static_cast<std::size_t>(std::min(step, p.part.rows) * width));
  for (std::int64_t r = 0; r < p.part.rows; r += step) {
    const Rectangle rows{p.part.row + r, p.part.column, std::min(step, p.part.rows - r), width};
    checkpoint.read_state(kind, p.row->name, rows, buffer.data());
    write_floats(staging, to.slice_rows(r * width, r * width + rows.size()), buffer.data());
  }
}

}  // namespace

StoreRows store_trainer_rows(Trainer& t, Staging& staging) {
  std::map<const ParamRow*, std::vector<OwnedPiece>> owned;
  for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) owned[p.row].push_back(p);
  return [&t, &staging, owned = std::move(owned)](const ParamRow& row, const Rectangle& part, const float* values) {
    store_rows(row, part, values, staging, t.memory.weights.dense, t.memory.weights.expert);
    if (!t.memory.separate_masters()) return;
    Staging host;  // where masters lie in host memory
    const std::int64_t begin = row.offset + (part.row - row.part.row) * part.columns;
    const std::int64_t end = begin + part.size();  // flat
    const auto pieces = owned.find(&row);
    if (pieces == owned.end()) return;
    for (const OwnedPiece& p : pieces->second) {
      const std::int64_t from = std::max(begin, p.flat), to = std::min(end, p.flat + p.part.size());
      if (from >= to) continue;
      write_state(t.memory.host_state.allocated() ? host : staging, t.memory, StateKind::Master, p,
                  {from - p.flat, 1, to - from, to - from}, values + (from - begin));
    }
  };
}

void initialize_trainer(Trainer& t, std::uint64_t seed) {
  Staging staging(*t.device, *t.stream);
  initialize_weights(t.table(), seed, staging, t.memory.weights.dense, t.memory.weights.expert);
  masters_from_weights(t.optimizer, t.memory);
}

void load_trainer_weights(Trainer& t, TensorSource& source) {
  Staging staging(*t.device, *t.stream);
  load_parameters(t.table(), source, kBuffer, store_trainer_rows(t, staging), t.mesh->host.get());
  std::fill(t.optimizer.row_steps.begin(), t.optimizer.row_steps.end(), 0);
}

void restore_trainer(Trainer& t, Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info();
  load_trainer_weights(t, checkpoint);
  const int moments = t.config.train.moments();
  if (checkpoint.moments() < moments)
    input_error(
        "{}: holds {} of the {} moments that train.optimizer = {} keeps, so training can not resume from it; start a "
        "new run with init.load",
        checkpoint.directory(), checkpoint.moments(), moments, t.config.train.optimizer);
  if (moments > 0) {
    Staging staging = state_staging(t.memory, *t.device, *t.stream);
    for (const OwnedPiece& p : owned_pieces(t.table(), t.mesh->at, true)) {
      restore_moment(checkpoint, StateKind::Moment1, p, staging, shard_piece_of(t.memory.m, p));
      if (moments > 1) restore_moment(checkpoint, StateKind::Moment2, p, staging, shard_piece_of(t.memory.v, p));
    }
  }
  for (std::size_t i = 0; i < t.optimizer.row_steps.size(); ++i) {
    const auto steps = info.optimizer_steps.find(t.table().rows[i].name);
    if (steps == info.optimizer_steps.end()) {
      UPCYCLE_CHECK(moments == 0, "{}: no optimizer step count of {}", checkpoint.directory(), t.table().rows[i].name);
      continue;
    }
    t.optimizer.row_steps[i] = steps->second;
  }
  t.step = info.step;
  t.consumed_samples = info.consumed_samples;
  t.tokens = info.tokens;
  t.flops = info.flops;
  t.wall_seconds = info.wall_seconds;
  t.skips.total = info.skipped_steps;
  t.skips.in_a_row = info.skipped_in_a_row;
  if (t.config.train.max_loss_z_score > 0) t.skips.losses.assign(info.losses.begin(), info.losses.end());
}

CheckpointInfo checkpoint_info(const Trainer& t) {
  CheckpointInfo info;
  info.model = t.config.model;
  info.layout = t.mesh->layout;
  info.step = t.step;
  info.consumed_samples = t.consumed_samples;
  info.tokens = t.tokens;
  info.flops = t.flops;
  info.wall_seconds = t.wall_seconds;
  info.skipped_steps = t.skips.total;
  info.skipped_in_a_row = t.skips.in_a_row;
  info.losses = t.skips.losses;
  for (std::size_t i = 0; i < t.optimizer.row_steps.size(); ++i)
    info.optimizer_steps[t.table().rows[i].name] = t.optimizer.row_steps[i];
  return info;
}

}  // namespace upcycle
