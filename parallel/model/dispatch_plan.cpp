#include "parallel/model/dispatch_plan.h"

#include <algorithm>
#include <numeric>

#include "kernels/op_types.h"

namespace upcycle {
namespace {

std::int64_t aligned(std::int64_t rows) { return (rows + kExpertRowAlign - 1) / kExpertRowAlign * kExpertRowAlign; }

}  // namespace

std::int64_t most_received(const AssignmentCounts& counts) {
  std::int64_t most = 0;
  const std::int64_t E_local = counts.E_local();
  for (std::int64_t to = 0; to < counts.ep; ++to) {
    std::int64_t received = 0;
    for (std::int64_t from = 0; from < counts.ep; ++from)
      for (std::int64_t c = 0; c < counts.chunks; ++c)
        for (std::int64_t e = to * E_local; e < (to + 1) * E_local; ++e) received += counts.of(from, c, e);
    most = std::max(most, received);
  }
  return most;
}

void lay_out(DispatchChunk& chunk, const AssignmentCounts& counts, std::int64_t index, std::int64_t me) {
  const std::int64_t E_local = counts.E_local();
  std::fill(chunk.send_counts.begin(), chunk.send_counts.end(), 0);
  std::fill(chunk.recv_counts.begin(), chunk.recv_counts.end(), 0);
  for (std::int64_t e = 0; e < E_local; ++e) {
    std::int64_t rows = 0;
    for (std::int64_t from = 0; from < counts.ep; ++from) {
      const std::int64_t n = counts.of(from, index, me * E_local + e);
      chunk.recv_counts[static_cast<std::size_t>(from)] += n;
      rows += n;
    }
    chunk.offsets[static_cast<std::size_t>(e + 1)] = chunk.offsets[static_cast<std::size_t>(e)] + aligned(rows);
  }
  for (std::int64_t e = 0; e < counts.E; ++e)
    chunk.send_counts[static_cast<std::size_t>(e / E_local)] += counts.of(me, index, e);
  chunk.received_rows = std::accumulate(chunk.recv_counts.begin(), chunk.recv_counts.end(), std::int64_t{0});
}

void map_received(std::int32_t* pad, std::int32_t* unpad, std::span<std::int64_t> next, const DispatchChunk& chunk,
                  const AssignmentCounts& counts, std::int64_t index, std::int64_t me) {
  const std::int64_t E_local = counts.E_local();
  std::copy(chunk.offsets.begin(), chunk.offsets.end() - 1, next.begin());  // the next free row of each segment
  pad += chunk.row_begin;
  unpad += chunk.received_begin;
  std::int32_t received = 0;
  for (std::int64_t from = 0; from < counts.ep; ++from)
    for (std::int64_t e = 0; e < E_local; ++e)
      for (std::int64_t i = counts.of(from, index, me * E_local + e); i > 0; --i) {
        const std::int64_t row = next[static_cast<std::size_t>(e)]++;
        pad[row] = received;
        unpad[received++] = static_cast<std::int32_t>(row);
      }
}

}  // namespace upcycle
