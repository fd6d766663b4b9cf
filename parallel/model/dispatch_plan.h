#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

// The arithmetic of dispatch (dispatch.h): who sends how many rows to whom, from the counts of every rank. Host memory
// alone.
namespace upcycle {

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

// How many assignments each rank of the ep group has for each expert, by chunk.
struct AssignmentCounts {
  std::span<const std::int32_t> all;  // (ep, chunks, E)
  std::int64_t ep, chunks, E;
  std::int64_t E_local() const { return E / ep; }
  std::int64_t of(std::int64_t from, std::int64_t chunk, std::int64_t e) const {
    return all[static_cast<std::size_t>((from * chunks + chunk) * E + e)];
  }
};

// The most rows that any rank of the group receives.
std::int64_t most_received(const AssignmentCounts& counts);

// Fills what chunk `index` of rank `me` sends and receives, and its experts' segments.
void lay_out(DispatchChunk& chunk, const AssignmentCounts& counts, std::int64_t index, std::int64_t me);

// Received rows come by source rank, then by local expert; expert rows by local expert, then by source rank. Fills the
// chunk's part of the two maps between them: pad (R), for an expert row the received row or -1, and unpad (received).
// `next` (E_local) is scratch.
void map_received(std::int32_t* pad, std::int32_t* unpad, std::span<std::int64_t> next, const DispatchChunk& chunk,
                  const AssignmentCounts& counts, std::int64_t index, std::int64_t me);

}  // namespace upcycle
