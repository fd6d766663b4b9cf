#pragma once
#include <vector>

#include "parallel/model/activations.h"

// Moving assignments to the ranks that hold their experts and back, dropless (arXiv 2211.15841; expert parallelism as
// in arXiv 2006.16668). Two layouts of the same rows:
//   slots        one row an assignment, on the rank that has the token, sorted by global expert; Ops::sort_by_expert's
//                `source` and `slot` lead from tokens to them and back.
//   expert rows  on the rank that has the expert: a segment a local expert, each padded to kExpertRowAlign.
// With ep = 1 the two are one buffer. The ways out and back are each other's inverse and transpose, so the forward's
// way out is the backward's way back.
//
// parallel.dispatch_chunks cuts a layer's tokens in runs whose transfers and expert products overlap: all ways out are
// started at once, each chunk is computed when it has arrived, and its way back travels under the next one's products
// (as Tutel does, arXiv 2206.03382).
namespace upcycle {

struct Transformer;

// One chunk's part of a layer's buffers, and how its rows travel.
struct DispatchChunk {
  std::int64_t token_begin = 0, token_end = 0;         // of the tokens that were planned
  std::int64_t slot_begin = 0, slot_rows = 0;          // slot layout
  std::int64_t received_begin = 0, received_rows = 0;  // from the ep group
  std::int64_t row_begin = 0;                          // expert rows; as many as offsets.back()
  std::vector<std::int64_t> send_counts, recv_counts;  // (ep) rows to and from each rank
  std::vector<std::int64_t> offsets;                   // (E_local + 1) segments, from row_begin on
  Event transfer;                                      // the newest of its two ways

  std::int64_t rows() const { return offsets.back(); }
  Tensor tokens_of(const Tensor& t) const { return t.slice_rows(token_begin, token_end); }
  Tensor slots_of(const Tensor& t) const { return t.slice_rows(slot_begin, slot_begin + slot_rows); }
  Tensor received_of(const Tensor& t) const { return t.slice_rows(received_begin, received_begin + received_rows); }
  Tensor rows_of(const Tensor& t) const { return t.slice_rows(row_begin, row_begin + rows()); }
};

// How the rows of one layer travel, for its newest routing.
struct DispatchPlan {
  std::vector<DispatchChunk> chunks;  // made once; the first `count` are in use
  std::size_t count = 0;
  Event counted;            // the counts have come to the host
  std::int64_t rounds = 1;  // more where a rank would receive more rows than its buffer holds: see finish_plan
  std::span<DispatchChunk> in_use() { return {chunks.data(), count}; }
};
DispatchPlan make_plan(const Sizes& sizes, int ep, std::int64_t chunks);

// Sorts the assignments `experts` (tokens, k), chunk by chunk: fills the layer's counts, source and slot. The counts
// start to the ep group and to the host: the one small exchange, and copy to the host, of a layer.
void start_plan(Transformer& m, std::int64_t layer, const Tensor& experts);
// Waits for them, lays out who sends what and fills the layer's maps.
// Where some rank would receive more than moe_buffers().received rows, every rank comes to the same plan.rounds > 1 and
// nothing is laid out: the caller cuts its tokens in so many equal parts, each of which is sure to fit, and plans each.
void finish_plan(Transformer& m, std::int64_t layer);
// The same for one of the layer's rounds, in one chunk; the number of rounds stays as it is.
void plan_round(Transformer& m, std::int64_t layer, const Tensor& experts);

// A chunk's slots (slot_rows, H) of `slots` start on their way; until finish_to_experts they are not to be written.
void start_to_experts(Transformer& m, DispatchChunk& chunk, const Tensor& slots);
// Waits for them -> the chunk's expert rows (rows(), H), padding rows zero, in `rows`. With ep = 1 the slots
// themselves.
Tensor finish_to_experts(Transformer& m, std::int64_t layer, DispatchChunk& chunk, const Tensor& rows,
                         const Tensor& slots);
// And back: the chunk's expert rows start towards its slots in `slots`; `rows` is free at once. With ep = 1 nothing
// moves: the caller has put them in place.
void start_from_experts(Transformer& m, std::int64_t layer, DispatchChunk& chunk, const Tensor& slots,
                        const Tensor& rows);
void finish_from_experts(Transformer& m, DispatchChunk& chunk);

}  // namespace upcycle
