#include "parallel/train/snapshot.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "core/check.h"

namespace upcycle {
namespace {

void layout_whole(Arena& arena, const std::vector<OwnedPiece>& pieces, int moments, Snapshot* into) {
  for (const OwnedPiece& p : pieces) {
    const Tensor master = arena.take(DType::F32, {p.part.size()});
    if (into != nullptr) into->master.push_back(master);
    for (int i = 0; i < moments; ++i) {
      const Tensor moment = arena.take(DType::F32, {p.part.size()});
      if (into != nullptr) (i == 0 ? into->m : into->v).push_back(moment);
    }
  }
}

// Two buffers, no larger than the largest piece, and each with room for a row of any.
void layout_buckets(Arena& arena, const std::vector<OwnedPiece>& pieces, std::int64_t bucket, Snapshot* into) {
  std::int64_t size = 0;
  for (const OwnedPiece& p : pieces) size = std::max({size, p.part.columns, std::min(p.part.size(), bucket)});
  for (int i = 0; i < 2; ++i) {
    const Tensor buffer = arena.take(DType::F32, {size});
    if (into != nullptr) into->buckets.emplace_back(buffer.as<float>(), static_cast<std::size_t>(size));
  }
}

bool in_buckets(const Config& config) { return config.checkpoint.snapshot == "bucket"; }

void layout_snapshot(Arena& arena, const std::vector<OwnedPiece>& pieces, const Config& config, std::int64_t bucket,
                     Snapshot* into) {
  if (in_buckets(config))
    layout_buckets(arena, pieces, bucket, into);
  else
    layout_whole(arena, pieces, config.train.moments(), into);
}

// (piece.part.size()), where it lies.
Tensor state_of(const Trainer& t, StateKind kind, const OwnedPiece& piece) {
  if (kind == StateKind::Master) return master_piece(t.memory, piece);
  return shard_piece_of(kind == StateKind::Moment1 ? t.memory.m : t.memory.v, piece);
}

// With all threads: the training stands meanwhile.
void copy_on_host(float* to, const Tensor& from) {
  const std::int64_t bytes = static_cast<std::int64_t>(from.bytes()), block = std::int64_t{1} << 20;
#pragma omp parallel for schedule(static) if (bytes > block)
  for (std::int64_t begin = 0; begin < bytes; begin += block)
    std::memcpy(reinterpret_cast<char*>(to) + begin, static_cast<const char*>(from.data) + begin,
                static_cast<std::size_t>(std::min(block, bytes - begin)));
}

// Copies values of the piece from `begin` on: in the stream's order, or at once where they are in host memory.
void copy_state(const Trainer& t, Stream& stream, StateKind kind, const OwnedPiece& piece, std::int64_t begin,
                std::int64_t n, float* to) {
  const Tensor from = state_of(t, kind, piece).slice_rows(begin, begin + n);
  if (t.memory.host_state.allocated())
    copy_on_host(to, from);
  else
    t.device->copy_to_host(stream, to, from.data, from.bytes());
}

PieceReader reader_of(const Trainer& t, const Snapshot& s) {
  std::map<std::string, std::vector<const OwnedPiece*>> owned;
  for (const OwnedPiece& p : s.pieces) owned[p.row->name].push_back(&p);
  return [&t, &s, owned = std::move(owned)](const SavedPiece& p, std::int64_t row, std::int64_t rows, float* out) {
    const auto& of_tensor = owned.at(p.tensor);
    const auto piece = std::find_if(of_tensor.begin(), of_tensor.end(), [&](const OwnedPiece* o) {
      return o->part.row == p.part.row && o->part.column == p.part.column;
    });
    UPCYCLE_CHECK(piece != of_tensor.end(), "{}: a piece that this rank does not own", p.tensor);
    copy_state(t, *s.copies, p.kind, **piece, row * p.part.columns, rows * p.part.columns, out);
    s.copies->synchronize();
  };
}

}  // namespace

Snapshot make_snapshot(const Trainer& t, std::int64_t bucket) {
  Snapshot s;
  s.pieces = owned_pieces(t.table(), t.mesh->at, false);
  layout_snapshot(s.arena, s.pieces, t.config, bucket, nullptr);
  s.arena.allocate(*t.device, Arena::Memory::Host);
  layout_snapshot(s.arena, s.pieces, t.config, bucket, &s);
  s.copies = t.device->make_stream();
  return s;
}

std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, const Config& config) {
  Arena arena("checkpoint snapshot");
  layout_snapshot(arena, owned_pieces(table, at, false), config, kBucketElements, nullptr);
  return arena.high_water();
}

SavedState take_snapshot(Trainer& t, Snapshot& s, std::optional<DType> weights_alone) {
  const int kinds = weights_alone ? 1 : 1 + t.config.train.moments();
  SavedState state(std::vector<SavedPiece>{});
  // What this rank owns: parameters still being gathered are other ranks'.
  s.copies->wait(t.stream->record());
  for (std::size_t i = 0; i < s.pieces.size(); ++i) {
    const OwnedPiece& p = s.pieces[i];
    for (const StateKind kind : {StateKind::Master, StateKind::Moment1, StateKind::Moment2}) {
      if (static_cast<int>(kind) >= kinds) break;
      float* values = nullptr;
      if (s.buckets.empty()) {
        const auto& copies = kind == StateKind::Master ? s.master : kind == StateKind::Moment1 ? s.m : s.v;
        values = copies[i].as<float>();
        copy_state(t, *s.copies, kind, p, 0, p.part.size(), values);
      }
      state.pieces.push_back({kind, p.row->name, p.row->rows, p.row->columns, p.row->is_vector, p.part, values,
                              weights_alone.value_or(DType::F32)});
    }
  }
  if (s.buckets.empty()) {
    t.state_read = state.copied = s.copies->record();
  } else {
    state.read = reader_of(t, s);
    state.buffers = s.buckets;
  }
  return state;
}

}  // namespace upcycle
