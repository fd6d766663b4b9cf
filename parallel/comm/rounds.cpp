#include "parallel/comm/rounds.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "core/check.h"
#include "parallel/comm/sum_in_order.h"

namespace upcycle {
namespace {

// Pieces of this many bytes keep every rank's share aligned for vector loads.
constexpr std::size_t kAlign = 64;

std::size_t piece_bytes(int size, const MpiLimits& limits) {
  const std::size_t piece = std::min(limits.piece_bytes, limits.scratch_bytes / static_cast<std::size_t>(size));
  return std::max<std::size_t>(piece / kAlign, 1) * kAlign;
}

std::size_t index(int r) { return static_cast<std::size_t>(r); }

// The round of an all-reduce: each rank sums one share of its bytes.
struct Shares {
  std::size_t bytes, share;
  Shares(std::size_t bytes_, int size)
      : bytes(bytes_), share(((bytes_ + index(size) - 1) / index(size) + kAlign - 1) / kAlign * kAlign) {}
  int offset(int r) const { return static_cast<int>(std::min(bytes, index(r) * share)); }
  int length(int r) const { return offset(r + 1) - offset(r); }
};

}  // namespace

std::size_t reduction_scratch_bytes(int size, const MpiLimits& limits) {
  return size == 1 ? 0 : index(size) * piece_bytes(size, limits);
}

Rounds::Rounds(MpiGroup& group, const MpiLimits& limits)
    : group_(group), limits_(limits), piece_(piece_bytes(group.size(), limits)) {
  limits_.small_bytes = std::min(limits_.small_bytes, piece_);
  const std::size_t size = index(group.size());
  // Offsets inside one round are ints of bytes.
  UPCYCLE_CHECK(size * piece_ <= INT_MAX, "{} pieces of {} bytes pass 2^31", size, piece_);
  scratch_ = static_cast<std::byte*>(host_->allocate(size * piece_));
  for (auto* v : {&send_counts_, &send_offsets_, &recv_counts_, &recv_offsets_}) v->resize(size);
  sources_.resize(size);
}

Rounds::~Rounds() { host_->release(scratch_, index(group_.size()) * piece_); }

void Rounds::abandon() { scratch_ = nullptr; }

// Each rank sums one share, then (the second half of the round) all gather the shares.
void Rounds::start_shares(Operation& op) {
  op.round = std::min(index(group_.size()) * piece_, op.bytes - op.done);
  std::byte* data = op.out + op.done;
  const Shares shares(op.round, group_.size());
  const int rank = group_.rank();
  for (int r = 0; r < group_.size(); ++r) {
    // This rank's own share is summed in place.
    send_counts_[index(r)] = op.gathering || r != rank ? shares.length(r) : 0;
    send_offsets_[index(r)] = shares.offset(r);
    recv_counts_[index(r)] = r == rank ? 0 : shares.length(rank);
    recv_offsets_[index(r)] = static_cast<int>(index(r) * piece_);
    sources_[index(r)] = r == rank ? data + shares.offset(r) : piece(r);
  }
  if (op.gathering) return group_.all_gather_v(nullptr, data, send_counts_.data(), send_offsets_.data());
  group_.all_to_all_v(data, send_counts_.data(), send_offsets_.data(), {1, 1}, scratch_, recv_counts_.data(),
                      recv_offsets_.data(), {1, 1});
}

void Rounds::start_part(Operation& op) {
  op.round = std::min(piece_, op.bytes - op.done);
  for (int r = 0; r < group_.size(); ++r) {
    send_counts_[index(r)] = r == group_.rank() ? 0 : 1;
    send_offsets_[index(r)] = r;
    sources_[index(r)] = r == group_.rank() ? op.in + index(r) * op.bytes + op.done : piece(r);
  }
  group_.all_to_all_v(op.in + op.done, send_counts_.data(), send_offsets_.data(), {op.round, op.bytes}, scratch_,
                      send_counts_.data(), send_offsets_.data(), {op.round, piece_});
}

void Rounds::start_rows(Operation& op) {
  const std::size_t own = index(group_.rank()), own_rows = static_cast<std::size_t>(op.send_counts[own]);
  int sent = 0, received = 0;  // the caller has checked that the sums fit
  for (std::size_t r = 0; r < op.send_counts.size(); ++r) {
    send_offsets_[r] = sent;
    recv_offsets_[r] = received;
    sent += op.send_counts[r];
    received += op.recv_counts[r];
  }
  op.send_counts[own] = op.recv_counts[own] = 0;
  const Places rows{op.row_bytes, op.row_bytes};
  group_.all_to_all_v(op.in, op.send_counts.data(), send_offsets_.data(), rows, op.out, op.recv_counts.data(),
                      recv_offsets_.data(), rows);
  op.round = op.bytes;
  // This rank's own rows are copied while the others are in flight.
  if (own_rows != 0) {
    std::memcpy(op.out + static_cast<std::size_t>(recv_offsets_[own]) * op.row_bytes,
                op.in + static_cast<std::size_t>(send_offsets_[own]) * op.row_bytes, own_rows * op.row_bytes);
  }
}

bool Rounds::start(Operation& op) {
  if (op.done >= op.bytes) return false;
  const std::size_t message = std::min(limits_.message_bytes, op.bytes - op.done);
  switch (op.movement) {
    case Movement::SmallAllReduce:
      op.round = op.bytes;
      group_.all_gather(op.out, scratch_, op.bytes);
      break;
    case Movement::AllReduce:
      start_shares(op);
      break;
    case Movement::ReduceScatter:
      start_part(op);
      break;
    case Movement::AllGather: {
      // MPI wants "in place" on all ranks or on none, and callers may differ: always use it.
      std::byte* own = op.out + index(group_.rank()) * op.bytes;
      if (op.done == 0 && own != op.in) std::memcpy(own, op.in, op.bytes);
      op.round = message;
      group_.all_gather_in_place(op.out + op.done, {message, op.bytes});
      break;
    }
    case Movement::GatherV: {
      int offset = 0;
      for (std::size_t r = 0; r < op.recv_counts.size(); ++r) {
        recv_offsets_[r] = offset;
        offset += op.recv_counts[r];
      }
      op.round = op.bytes;
      group_.all_gather_v(op.in, op.out, op.recv_counts.data(), recv_offsets_.data());
      break;
    }
    case Movement::AllToAllV:
      start_rows(op);
      break;
    case Movement::Broadcast:
      op.round = message;
      group_.broadcast(op.out + op.done, message, op.root);
      break;
    case Movement::Barrier:
      op.round = op.bytes;
      group_.barrier();
      break;
  }
  return true;
}

void Rounds::finish(Operation& op) {
  const auto elements = [&](std::size_t bytes) { return static_cast<std::int64_t>(bytes / size_of(op.dtype)); };
  switch (op.movement) {
    case Movement::SmallAllReduce:
      for (std::size_t r = 0; r < sources_.size(); ++r) sources_[r] = scratch_ + r * op.bytes;
      sum_in_order(op.dtype, op.out, sources_, elements(op.bytes));
      break;
    case Movement::AllReduce:
      op.gathering = !op.gathering;
      if (op.gathering) {
        const Shares shares(op.round, group_.size());
        sum_in_order(op.dtype, op.out + op.done + shares.offset(group_.rank()), sources_,
                     elements(index(shares.length(group_.rank()))));
        return;  // the round's second half is still to come
      }
      break;
    case Movement::ReduceScatter:
      sum_in_order(op.dtype, op.out + op.done, sources_, elements(op.round));
      break;
    default:
      break;
  }
  op.done += op.round;
}

}  // namespace upcycle
