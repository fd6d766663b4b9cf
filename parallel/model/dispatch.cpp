#include "parallel/model/dispatch.h"

#include <numeric>

#include "core/check.h"
#include "core/log.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

std::int64_t aligned(std::int64_t rows, std::int64_t align) { return (rows + align - 1) / align * align; }

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

// What chunk `index` of rank `me` sends and receives, and its experts' segments, of multiples of `align` rows.
void lay_out(DispatchChunk& chunk, const AssignmentCounts& counts, std::int64_t index, std::int64_t me,
             std::int64_t align) {
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
    chunk.offsets[static_cast<std::size_t>(e + 1)] = chunk.offsets[static_cast<std::size_t>(e)] + aligned(rows, align);
  }
  for (std::int64_t e = 0; e < counts.E; ++e)
    chunk.send_counts[static_cast<std::size_t>(e / E_local)] += counts.of(me, index, e);
  chunk.received_rows = std::accumulate(chunk.recv_counts.begin(), chunk.recv_counts.end(), std::int64_t{0});
}

// Received rows come by source rank, then by local expert; expert rows by local expert, then by source rank. Fills the
// chunk's part of the two maps between them; `next` (E_local) is scratch.
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

// Sorts the assignments, in `count` chunks: fills maps.counts, source and slot. Every rank's counts of every expert,
// (ep, chunks, E), start on their way to the host.
void start_counts(const ModelContext& m, Dispatch& d, const Tensor& experts, std::size_t count) {
  const std::int64_t E = m.sizes.E, tokens = experts.rows();
  const auto chunks = static_cast<std::int64_t>(count);
  d.count = count;
  d.rounds = 1;
  for (std::int64_t i = 0; i < chunks; ++i) {
    DispatchChunk& c = d.chunks[static_cast<std::size_t>(i)];
    c.token_begin = tokens * i / chunks;
    c.token_end = tokens * (i + 1) / chunks;
    c.slot_begin = c.token_begin * m.sizes.k;
    c.slot_rows =
        d.travels ? (c.token_end - c.token_begin) * m.sizes.k : moe_buffers(m.sizes, m.mesh->layout, m.pass).slots;
    m.ops->sort_by_expert(*m.stream, m.workspace, d.maps.counts.slice_rows(i, i + 1).reshaped({E}),
                          c.slots_of(d.maps.source), c.tokens_of(d.maps.slot), c.tokens_of(experts),
                          d.travels ? 1 : m.pass.expert_row_align);
  }
  Tensor all = d.maps.counts.slice_rows(0, chunks).reshaped({chunks * E});
  if (d.travels) {
    const Tensor mine = all;
    all = Tensor(d.buffers.all_counts.data, DType::I32, {m.mesh->ep->size(), mine.size()});
    m.stream->wait(m.mesh->ep->all_gather(all, mine));
  }
  m.device->copy_to_host(*m.stream, d.host->counts.data(), all.data, all.bytes());
}

void warn_of_rounds(const ModelContext& m, const Dispatch& d) {
  // Its group's first rank warns: other groups may fit, rank 0's among them.
  if (d.host->warned_of_rounds || m.mesh->ep->rank() != 0 || m.mesh->at.etp != 0) return;
  d.host->warned_of_rounds = true;
  log_warn(
      "layer {}: more tokens for one rank's experts than its buffers hold: the layer is done in {} rounds, which is "
      "slower but the same{}",
      d.layer, d.rounds,
      m.pass.training
          ? fmt::format("; raise parallel.imbalance_factor (now {}) or balance the router", m.pass.imbalance_factor)
          : "");
}

void count_use(DispatchHost& host, const AssignmentCounts& counts) {
  for (std::int64_t e = 0; e < counts.E; ++e) {
    std::int64_t tokens = 0;
    for (std::int64_t from = 0; from < counts.ep; ++from)
      for (std::int64_t c = 0; c < counts.chunks; ++c) tokens += counts.of(from, c, e);
    char& touched = host.touched[static_cast<std::size_t>(e)];
    host.experts_touched += tokens > 0 && touched == 0;
    host.assignments += tokens;
    host.expert_tokens[static_cast<std::size_t>(e)] += tokens;
    touched |= tokens > 0;
  }
}

// Waits for the counts, lays out who sends what and fills maps.pad and unpad; or finds that it takes more than one
// round.
void plan_transfers(const ModelContext& m, Dispatch& d) {
  const std::int64_t ep = m.mesh->ep->size(), me = m.mesh->ep->rank();
  finish(m.stream->record());
  const AssignmentCounts counts{std::span(d.host->counts), ep, static_cast<std::int64_t>(d.count), m.sizes.E};
  if (d.travels && most_received(counts) > d.limits.received) {
    // A token sends a rank at most min(k, E_local) rows, so this many tokens of every rank always fit.
    const std::int64_t fit = d.limits.received / (ep * std::min(m.sizes.k, m.sizes.E_local));
    d.rounds = (d.limits.tokens + fit - 1) / fit;
    warn_of_rounds(m, d);
    return;
  }
  count_use(*d.host, counts);
  if (d.travels) std::fill(d.host->pad.begin(), d.host->pad.end(), -1);
  std::int64_t row = 0, received = 0;
  for (std::int64_t i = 0; i < counts.chunks; ++i) {
    DispatchChunk& c = d.chunks[static_cast<std::size_t>(i)];
    lay_out(c, counts, i, me, m.pass.expert_row_align);
    c.row_begin = row;
    c.received_begin = received;
    row += c.rows();
    received += c.received_rows;
    if (d.travels)
      map_received(d.host->pad.data(), d.host->unpad.data(), d.host->next, c, counts, i, me);
    else
      c.slot_rows = c.rows();
  }
  if (!d.travels) return;
  m.device->copy_from_host(*m.stream, d.maps.pad.data, d.host->pad.data(), d.maps.pad.bytes());
  m.device->copy_from_host(*m.stream, d.maps.unpad.data, d.host->unpad.data(), d.maps.unpad.bytes());
}

}  // namespace

DispatchHost make_dispatch_host(Device& device, const Sizes& sizes, int ep, const MoeBuffers& limits) {
  DispatchHost h;
  h.counts = HostArray<std::int32_t>(device, static_cast<std::size_t>(ep * limits.chunks * sizes.E));
  h.pad = HostArray<std::int32_t>(device, static_cast<std::size_t>(limits.rows));
  h.unpad = HostArray<std::int32_t>(device, static_cast<std::size_t>(limits.received));
  h.next.resize(static_cast<std::size_t>(sizes.E_local));
  h.touched.resize(static_cast<std::size_t>(sizes.E));
  h.expert_tokens.resize(static_cast<std::size_t>(sizes.E));
  return h;
}

std::size_t dispatch_host_bytes(const Sizes& sizes, int ep, const MoeBuffers& limits) {
  return static_cast<std::size_t>(ep * limits.chunks * sizes.E + limits.rows + limits.received) * sizeof(std::int32_t);
}

Dispatch make_dispatch(std::int64_t layer, const Sizes& sizes, int ep, const MoeBuffers& limits,
                       const DispatchMaps& maps, const DispatchBuffers& buffers, DispatchHost* host) {
  Dispatch d;
  d.layer = layer;
  d.travels = ep > 1;
  d.limits = limits;
  d.maps = maps;
  d.buffers = buffers;
  d.host = host;
  d.chunks.resize(static_cast<std::size_t>(limits.chunks));
  for (DispatchChunk& c : d.chunks) {
    c.send_counts.resize(static_cast<std::size_t>(ep));
    c.recv_counts.resize(static_cast<std::size_t>(ep));
    c.offsets.resize(static_cast<std::size_t>(sizes.E_local) + 1);
  }
  return d;
}

void dispatch(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& experts, const Tensor& rows) {
  std::fill(d.host->touched.begin(), d.host->touched.end(), 0);
  start_counts(m, d, experts, d.chunks.size());
  plan_transfers(m, d);
  if (d.rounds == 1) dispatch_again(m, d, x, rows);
}

void dispatch_round(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& experts, const Tensor& rows) {
  const std::int64_t rounds = d.rounds;
  start_counts(m, d, experts, 1);
  plan_transfers(m, d);
  UPCYCLE_CHECK(d.rounds == 1, "a round of {} tokens does not fit the expert buffers", experts.rows());
  d.rounds = rounds;
  dispatch_again(m, d, x, rows);
}

void dispatch_again(const ModelContext& m, Dispatch& d, const Tensor& x, const Tensor& rows) {
  const Tensor& slots = d.slots_beside(rows);
  for (DispatchChunk& chunk : d.in_use()) {
    m.ops->gather_rows(*m.stream, chunk.slots_of(slots), chunk.tokens_of(x), chunk.slots_of(d.maps.source));
    to_experts(m, d, chunk, slots);
  }
}

void to_experts(const ModelContext& m, const Dispatch& d, DispatchChunk& chunk, const Tensor& slots) {
  if (!d.travels) return;
  chunk.transfer = m.mesh->ep->all_to_all_v(chunk.received_of(d.buffers.received), chunk.recv_counts,
                                            chunk.slots_of(slots), chunk.send_counts);
}

Tensor rows_at_experts(const ModelContext& m, const Dispatch& d, const DispatchChunk& chunk, const Tensor& rows) {
  if (!d.travels) return chunk.slots_of(rows);
  m.stream->wait(chunk.transfer);
  const Tensor out = chunk.rows_of(rows);
  m.ops->gather_rows(*m.stream, out, chunk.received_of(d.buffers.received), chunk.rows_of(d.maps.pad));
  return out;
}

void from_experts(const ModelContext& m, const Dispatch& d, DispatchChunk& chunk, const Tensor& slots,
                  const Tensor& rows) {
  if (!d.travels) return;
  const Tensor received = chunk.received_of(d.buffers.received);
  m.ops->gather_rows(*m.stream, received, chunk.rows_of(rows), chunk.received_of(d.maps.unpad));
  chunk.transfer = m.mesh->ep->all_to_all_v(chunk.slots_of(slots), chunk.send_counts, received, chunk.recv_counts);
}

}  // namespace upcycle
