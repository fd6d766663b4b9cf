#include "parallel/upcycle/live_exchange.h"

#include <algorithm>
#include <span>

#include "core/staging.h"
#include "parallel/model/rectangles.h"

namespace upcycle {
namespace {

// A piece that this rank will own, and the dense rectangle that it is made of.
struct Target {
  OwnedPiece piece;
  Rectangle origin;
};

std::vector<std::vector<Target>> targets_by_dense_row(const Trainer& dense, const ExpertMaker& maker, StateKind state,
                                                      const Trainer& moe) {
  std::vector<std::vector<Target>> all(dense.table().rows.size());
  for (const OwnedPiece& p : owned_pieces(moe.table(), moe.mesh->at, true)) {
    if (state != StateKind::Master && retained_tensor(*p.row).empty()) continue;
    const Origin from = maker.origin(*p.row, p.part);
    if (!from.tensor.empty()) all[dense.table().places.at(from.tensor)].push_back({p, from.part});
  }
  return all;
}

// Makes what the received rectangle `came` of a dense tensor contributes to a piece, and stores it there. It works in
// `scratch`, because other experts are made of the same values.
void deliver(const Rectangle& came, const float* values, const Target& target, const ExpertMaker& maker,
             Staging& staging, const TrainMemory& to, StateKind state, std::vector<float>& scratch) {
  const Rectangle common = intersection(came, target.origin);
  if (common.size() == 0) return;
  scratch.resize(std::max(scratch.size(), static_cast<std::size_t>(common.size())));
  for (std::int64_t r = 0; r < common.rows; ++r)
    std::copy_n(values + (common.row - came.row + r) * came.columns + common.column - came.column, common.columns,
                scratch.data() + r * common.columns);
  const Rectangle& part = target.piece.part;
  const std::int64_t row = common.row - target.origin.row, column = common.column - target.origin.column;
  maker.make(*target.piece.row, {part.row + row, part.column + column, common.rows, common.columns}, scratch.data());
  write_state(staging, to, state, target.piece,
              {row * part.columns + column, common.rows, common.columns, part.columns}, scratch.data());
}

// How a rank gives away its part of a state: fp32 by copies to the device, another form through the host.
class Sender {
 public:
  Sender(const Trainer& dense, StateKind state)
      : dense_(dense),
        state_(state),
        pieces_(dense.table().rows.size()),
        from_(state_staging(dense.memory, *dense.device, *dense.stream)),
        to_(*dense.device, *dense.stream) {
    for (const OwnedPiece& p : owned_pieces(dense.table(), dense.mesh->at, true))
      pieces_[static_cast<std::size_t>(p.row - dense.table().rows.data())].push_back(p);
  }

  void send(const Transfer& t, const Tensor& out) {  // fp32 (t.part.size())
    const OwnedPiece& p = *std::ranges::find_if(pieces_[t.row], [&](const OwnedPiece& piece) {
      return piece.shard <= t.shard && t.shard < piece.shard + piece.part.size();
    });
    const std::int64_t first = t.shard - p.shard, rows = t.part.rows, columns = t.part.columns;
    const Tensor& values = state_piece(dense_.memory, state_, p).values;
    if (values.dtype == DType::F32) {
      const auto bytes = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(float); };
      const bool on_host = dense_.memory.host_state.allocated();
      dense_.device->copy(*dense_.stream, on_host ? CopyKind::FromHost : CopyKind::OnDevice, out.data,
                          values.as<float>() + first,
                          {bytes(columns), static_cast<std::size_t>(rows), bytes(columns), bytes(t.width)});
      return;
    }
    const std::int64_t block = std::max<std::int64_t>(1, kBlock / columns);  // rows
    for (std::int64_t r = 0; r < rows; r += block) {
      const std::int64_t n = std::min(block, rows - r);
      values_.resize(std::max(values_.size(), static_cast<std::size_t>(n * columns)));
      read_state(from_, dense_.memory, state_, p, {first + r * t.width, n, columns, t.width}, values_.data());
      write_floats(to_, out.slice_rows(r * columns, (r + n) * columns), values_.data());
    }
  }

 private:
  static constexpr std::int64_t kBlock = std::int64_t{1} << 18;  // elements

  const Trainer& dense_;
  StateKind state_;
  std::vector<std::vector<OwnedPiece>> pieces_;  // by row
  Staging from_, to_;
  std::vector<float> values_;
};

// One round's part of a list sorted by round.
std::span<const Transfer> round_of(const std::vector<Transfer>& all, std::int64_t round) {
  const auto [begin, end] = std::equal_range(all.begin(), all.end(), Transfer{round, 0, 0, {}, 0, 0},
                                             [](const Transfer& a, const Transfer& b) { return a.round < b.round; });
  return {begin, end};
}

std::int64_t elements(std::span<const Transfer> all) {
  std::int64_t n = 0;
  for (const Transfer& t : all) n += t.part.size();
  return n;
}

std::int64_t largest_round(const LiveExchange& plan, const std::vector<Transfer>& all) {
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < plan.rounds; ++i) most = std::max(most, elements(round_of(all, i)));
  return most;
}

void count_by_peer(std::span<const Transfer> all, std::vector<std::int64_t>& counts) {
  std::fill(counts.begin(), counts.end(), 0);
  for (const Transfer& t : all) counts[static_cast<std::size_t>(t.peer)] += t.part.size();
}

}  // namespace

void agree_on_rounds(LiveExchange& plan, Communicator& world, std::int64_t buffer_elements) {
  const auto mine = static_cast<double>(longest_stretch(plan, world.size(), buffer_elements));
  cut_into_rounds(plan, static_cast<std::int64_t>(-world.max_of(-mine)));
}

void exchange_shards(const LiveExchange& plan, const Trainer& dense, const ExpertMaker& maker, StateKind state,
                     Trainer& moe) {
  Communicator& world = *moe.mesh->world;
  const auto targets = targets_by_dense_row(dense, maker, state, moe);
  Arena arena("live exchange");
  Tensor send, receive;
  for (const bool plan_only : {true, false}) {
    send = arena.take(DType::F32, {largest_round(plan, plan.sends)});
    receive = arena.take(DType::F32, {largest_round(plan, plan.receives)});
    if (plan_only) arena.allocate(*moe.device);
  }
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(world.size())), receive_counts(send_counts.size());
  std::vector<float> scratch;
  Sender sender(dense, state);
  // Two staging rings: received values are read while results are written, and a ring's pieces are reused in turn.
  Staging in(*moe.device, *moe.stream), out_staging = state_staging(moe.memory, *moe.device, *moe.stream);
  for (std::int64_t round = 0; round < plan.rounds; ++round) {
    const auto sends = round_of(plan.sends, round), receives = round_of(plan.receives, round);
    std::int64_t given = 0;
    for (const Transfer& t : sends) {
      sender.send(t, send.slice_rows(given, given + t.part.size()));
      given += t.part.size();
    }
    count_by_peer(sends, send_counts);
    count_by_peer(receives, receive_counts);
    moe.stream->wait(world.all_to_all_v(receive, receive_counts, send, send_counts));
    std::int64_t at = 0;
    for (const Transfer& t : receives) {
      const Tensor came = receive.slice_rows(at, at + t.part.size()).reshaped({t.part.rows, t.part.columns});
      in.read(came, [&](const void* values, std::int64_t row, std::int64_t rows) {
        const Rectangle part{t.part.row + row, t.part.column, rows, t.part.columns};
        for (const Target& target : targets[t.row])
          deliver(part, static_cast<const float*>(values), target, maker, out_staging, moe.memory, state, scratch);
      });
      at += t.part.size();
    }
  }
}

}  // namespace upcycle
