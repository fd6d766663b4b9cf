#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "core/host_array.h"
#include "parallel/model/context.h"
#include "parallel/model/moe_buffers.h"

// Moving assignments to the ranks that hold their experts and back, dropless (arXiv 2211.15841; expert parallelism as
// in arXiv 2006.16668). Two layouts of the same rows:
//   slots        one row per assignment, on the rank that has the token, sorted by global expert; Ops::sort_by_expert's
//                `source` and `slot` lead from tokens to them and back.
//   expert rows  on the rank that has the expert: a segment per local expert, each padded to a multiple of
//                PassShape::expert_row_align.
// With ep = 1 the two are one buffer. The ways out and back are each other's inverse and transpose, so the forward's
// way out is the backward's way back.
//
// parallel.dispatch_chunks cuts a layer's tokens in runs whose transfers and expert products overlap: all ways out are
// started at once, each chunk is computed when it has arrived, and its way back travels under the next one's products
// (as Tutel does, arXiv 2206.03382).
namespace upcycle {

// Where a layer's rows go, on the device. Kept under recompute: the transfers are never planned twice.
struct DispatchMaps {
  Tensor counts, source, slot;  // i32 (chunks, E), (slots), (tokens, k)
  Tensor pad, unpad;            // i32 (R), (received): received row of an expert row or -1, and back (ep > 1)
};

// Scratch that the layers share (ep > 1).
struct DispatchBuffers {
  Tensor slots, received;  // (slots, H), (received, H)
  Tensor all_counts;       // i32 (ep, chunks, E)
};

// What planning needs on the host; the layers share it.
struct DispatchHost {
  HostArray<std::int32_t> counts;      // (ep, chunks, E)
  HostArray<std::int32_t> pad, unpad;  // (R), (received)
  std::vector<std::int64_t> next;      // (E_local)
  bool warned_of_rounds = false;
  // Since it was made, summed over layers: experts that got tokens of this rank's ep group, and those tokens.
  std::int64_t experts_touched = 0, assignments = 0;
  std::vector<std::int64_t> expert_tokens;  // (E): the same tokens, by expert
  std::vector<char> touched;                // (E) in the layer under way, which may take several rounds
};
DispatchHost make_dispatch_host(Device& device, const Sizes& sizes, int ep, const MoeBuffers& limits);
std::size_t dispatch_host_bytes(const Sizes& sizes, int ep, const MoeBuffers& limits);  // of its arrays

// One chunk's part of a layer's buffers, and how its rows travel.
struct DispatchChunk {
  std::int64_t token_begin = 0, token_end = 0;         // of the tokens that were planned
  std::int64_t slot_begin = 0, slot_rows = 0;          // slot layout
  std::int64_t received_begin = 0, received_rows = 0;  // from the ep group
  std::int64_t row_begin = 0;                          // expert rows; as many as offsets.back()
  std::vector<std::int64_t> send_counts, recv_counts;  // (ep) rows to and from each rank
  std::vector<std::int64_t> offsets;                   // (E_local + 1) segments, from row_begin on
  Event transfer;                                      // the more recent of its two transfers, out and back

  std::int64_t rows() const { return offsets.back(); }
  Tensor tokens_of(const Tensor& t) const { return t.slice_rows(token_begin, token_end); }
  Tensor slots_of(const Tensor& t) const { return t.slice_rows(slot_begin, slot_begin + slot_rows); }
  Tensor received_of(const Tensor& t) const { return t.slice_rows(received_begin, received_begin + received_rows); }
  Tensor rows_of(const Tensor& t) const { return t.slice_rows(row_begin, row_begin + rows()); }
};

struct TokenRange {
  std::int64_t begin, end;
  Tensor of(const Tensor& t) const { return t.slice_rows(begin, end); }
};

// One layer's dispatch, for its most recent routing.
struct Dispatch {
  std::int64_t layer = 0;
  bool travels = false;  // ep > 1: slots and expert rows are different buffers
  MoeBuffers limits;
  DispatchMaps maps;
  DispatchBuffers buffers;
  DispatchHost* host = nullptr;

  std::vector<DispatchChunk> chunks;  // made once; the first `count` are in use
  std::size_t count = 0;
  std::int64_t rounds = 1;  // more where a rank would receive more rows than its buffer holds: see dispatch()

  std::span<DispatchChunk> in_use() { return {chunks.data(), count}; }
  // The slots that become the expert rows `rows`, or come from them.
  const Tensor& slots_beside(const Tensor& rows) const { return travels ? buffers.slots : rows; }
  TokenRange round(std::int64_t index, std::int64_t tokens) const {
    const std::int64_t step = (tokens + rounds - 1) / rounds;
    return {std::min(index * step, tokens), std::min((index + 1) * step, tokens)};
  }
};
Dispatch make_dispatch(std::int64_t layer, const Sizes& sizes, int ep, const MoeBuffers& limits,
                       const DispatchMaps& maps, const DispatchBuffers& buffers, DispatchHost* host);

// Plans where the assignments `experts` i32 (tokens, k) of the tokens x (tokens, H) go, and starts their rows on their
// way, all chunks at once, to become the expert rows `rows`. The counts of the assignments travel first, to the ep
// group and to the host, which waits for them: the one small exchange, and copy to the host, of a layer. Where some
// rank would receive more than limits.received rows, every rank computes the same d.rounds > 1 and nothing is sent: the
// caller cuts its tokens in so many equal parts, each of which is sure to fit, and dispatches each.
void dispatch(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& experts, const Tensor& rows);
// One of the layer's rounds, in one chunk; the number of rounds stays as it is.
void dispatch_round(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& experts, const Tensor& rows);
// The rows of x again, as they were planned.
void dispatch_again(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& rows);

// A chunk's slots (slot_rows, H) of `slots` start on their way; until they have arrived they are not to be written.
void to_experts(const ModelContext& m, const Dispatch& d, DispatchChunk& chunk, const Tensor& slots);
// The chunk's expert rows (rows(), H) of `rows`, padding rows zero, when what to_experts sent has arrived.
Tensor rows_at_experts(const ModelContext& m, const Dispatch& d, const DispatchChunk& chunk, const Tensor& rows);
// And back: the chunk's expert rows of `rows` start towards its slots in `slots`, which have them once chunk.transfer
// is reached; `rows` is free at once. With ep = 1 nothing moves: the caller has put them in place.
void from_experts(const ModelContext& m, const Dispatch& d, DispatchChunk& chunk, const Tensor& slots,
                  const Tensor& rows);

}  // namespace upcycle
