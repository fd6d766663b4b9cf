#include "parallel/train/snapshot.h"

namespace upcycle {
namespace {

void layout_snapshot(Arena& arena, const std::vector<OwnedPiece>& pieces, int moments, Snapshot* into) {
  for (const OwnedPiece& p : pieces) {
    const Tensor master = arena.take(DType::F32, {p.part.size()});
    if (into != nullptr) into->master.push_back(master);
    for (int i = 0; i < moments; ++i) {
      const Tensor moment = arena.take(DType::F32, {p.part.size()});
      if (into != nullptr) (i == 0 ? into->m : into->v).push_back(moment);
    }
  }
}

}  // namespace

Snapshot make_snapshot(const Trainer& t) {
  Snapshot s;
  s.pieces = owned_pieces(t.table(), t.mesh->at, false);
  layout_snapshot(s.arena, s.pieces, t.config.train.moments(), nullptr);
  s.arena.allocate(*t.device, Arena::Memory::Host);
  layout_snapshot(s.arena, s.pieces, t.config.train.moments(), &s);
  s.copies = t.device->make_stream();
  return s;
}

std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, int moments) {
  Arena arena("checkpoint snapshot");
  layout_snapshot(arena, owned_pieces(table, at, false), moments, nullptr);
  return arena.high_water();
}

SavedState take_snapshot(Trainer& t, Snapshot& s, std::optional<DType> weights_alone) {
  std::vector<SavedPiece> saved;
  // What this rank owns: parameters still being gathered are other ranks'.
  s.copies->wait(t.stream->record());
  const auto add = [&](StateKind kind, const OwnedPiece& p, const Tensor& copy, const Tensor& from) {
    t.device->copy_to_host(*s.copies, copy.data, from.data, copy.bytes());
    saved.push_back({kind, p.row->name, p.row->rows, p.row->columns, p.row->is_vector, p.part, copy.as<float>(),
                     weights_alone.value_or(DType::F32)});
  };
  for (std::size_t i = 0; i < s.pieces.size(); ++i) {
    const OwnedPiece& p = s.pieces[i];
    add(StateKind::Master, p, s.master[i], master_piece(t.memory, p));
    if (weights_alone) continue;
    if (!s.m.empty()) add(StateKind::Moment1, p, s.m[i], shard_piece_of(t.memory.m, p));
    if (!s.v.empty()) add(StateKind::Moment2, p, s.v[i], shard_piece_of(t.memory.v, p));
  }
  t.state_read = s.copies->record();
  return {std::move(saved), t.state_read};
}

}  // namespace upcycle
