#include "parallel/train/snapshot.h"

#include <algorithm>
#include <map>

#include "core/check.h"
#include "core/host_copy.h"

namespace upcycle {
namespace {

constexpr StateKind kKinds[] = {StateKind::Master, StateKind::Moment1, StateKind::Moment2};
std::span<const StateKind> kinds_of(const StateForm& form) {
  return std::span(kKinds).first(static_cast<std::size_t>(1 + form.moments));
}

void layout_whole(Arena& arena, const std::vector<OwnedPiece>& pieces, const StateForm& form, Snapshot* into) {
  for (const OwnedPiece& p : pieces)
    for (const StateKind kind : kinds_of(form)) {
      const StatePiece copy = take_copy(arena, form, kind, p);
      if (into != nullptr) into->states.push_back(copy);
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
    layout_whole(arena, pieces, state_form(config), into);
}

// As it lies: in the stream's order, or at once, while training stands, where it is in host memory.
void copy_state(const Trainer& t, Stream& stream, const StatePiece& to, const StatePiece& from) {
  if (t.device->kind() != DeviceKind::Cpu && !t.memory.host_state.allocated())
    return copy_to_host(*t.device, stream, to, from);
  for (const auto& part : {&StatePiece::values, &StatePiece::weight, &StatePiece::ties})
    if ((from.*part).data != nullptr) copy_past_caches((to.*part).data, (from.*part).data, (to.*part).bytes());
}

constexpr std::int64_t kPackedBlock = std::int64_t{1} << 18;  // elements

// As fp32, once this returns: values of the piece from `begin` on.
void read_values(const Trainer& t, const Snapshot& s, StateKind kind, const OwnedPiece& piece, std::int64_t begin,
                 std::int64_t n, float* to) {
  const StatePiece from = state_piece(t.memory, kind, piece);
  if (from.values.dtype == DType::F32) {
    copy_state(t, *s.copies, {Tensor(to, DType::F32, {n}), {}, {}}, {from.values.slice_rows(begin, begin + n), {}, {}});
    s.copies->synchronize();
    return;
  }
  for (std::int64_t done = 0, m = 0; done < n; done += m) {
    m = std::min(kPackedBlock, n - done);
    read_state(*s.packed, t.memory, kind, piece, {begin + done, 1, m, m}, to + done);
  }
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
    read_values(t, s, p.kind, **piece, row * p.part.columns, rows * p.part.columns, out);
  };
}

// A copy, for the writer: fp32 as it lies, or made so as it is written.
void set_values(SavedPiece& saved, const StatePiece& copy) {
  if (copy.values.dtype == DType::F32)
    saved.values = copy.values.as<float>();
  else
    saved.read = [copy, width = saved.part.columns](std::int64_t row, std::int64_t rows, float* out) {
      copied_floats(copy, row * width, rows * width, out);
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
  if (in_buckets(t.config))
    s.packed.reset(new Staging(state_staging(t.memory, *t.device, *s.copies, kPackedBlock * sizeof(float))));
  return s;
}

std::size_t plan_snapshot(const ParamTable& table, const Coordinates& at, const Config& config) {
  Arena arena("checkpoint snapshot");
  layout_snapshot(arena, owned_pieces(table, at, false), config, kBucketElements, nullptr);
  return arena.high_water() * static_cast<std::size_t>(config.checkpoint.max_pending);
}

SavedState take_snapshot(Trainer& t, Snapshot& s, std::optional<DType> weights_alone) {
  SavedState state(std::vector<SavedPiece>{});
  // What this rank owns: parameters still being gathered are other ranks'.
  s.copies->wait(t.stream->record());
  s.copies->wait(t.state_read);  // a copy into another snapshot: whoever waits for this one has waited for both
  auto copy = s.states.begin();
  for (const OwnedPiece& p : s.pieces)
    for (const StateKind kind : kinds_of(t.memory.form)) {
      const StatePiece* const to = s.buckets.empty() ? &*copy++ : nullptr;
      if (weights_alone && kind != StateKind::Master) continue;
      SavedPiece saved{kind,
                       p.row->name,
                       p.row->rows,
                       p.row->columns,
                       p.row->is_vector,
                       p.part,
                       nullptr,
                       type_in_files(*p.row, weights_alone)};
      if (to != nullptr) {
        copy_state(t, *s.copies, *to, state_piece(t.memory, kind, p));
        set_values(saved, *to);
      }
      state.pieces.push_back(std::move(saved));
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
