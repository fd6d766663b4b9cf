#include "parallel/model/dispatch.h"

#include "core/check.h"
#include "core/log.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

// Every rank's counts of every expert, (ep, chunks, E), start on their way to the host, beside the ops that follow.
Event start_counts(const ModelContext& m, const Dispatch& d, const Tensor& counts) {
  Tensor all = counts;
  if (d.travels) {
    all = Tensor(d.buffers.all_counts.data, DType::I32, {m.mesh->ep->size(), counts.size()});
    d.host->copies->wait(m.mesh->ep->all_gather(all, counts));
  } else {
    d.host->copies->wait(m.stream->record());
  }
  m.device->copy_to_host(*d.host->copies, d.host->counts.data(), all.data, all.bytes());
  return d.host->copies->record();
}

void count_in_chunks(const ModelContext& m, Dispatch& d, const Tensor& experts, std::size_t count) {
  const std::int64_t E = m.sizes.E, tokens = experts.rows();
  const auto chunks = static_cast<std::int64_t>(count);
  d.count = count;
  d.rounds = 1;
  for (std::int64_t i = 0; i < chunks; ++i) {
    DispatchChunk& c = d.chunks[static_cast<std::size_t>(i)];
    c.token_begin = tokens * i / chunks;
    c.token_end = tokens * (i + 1) / chunks;
    c.slot_begin = c.token_begin * m.sizes.k;
    c.slot_rows = d.travels ? (c.token_end - c.token_begin) * m.sizes.k : d.maps.source.rows();
    m.ops->sort_by_expert(*m.stream, m.workspace, d.maps.counts.slice_rows(i, i + 1).reshaped({E}),
                          c.slots_of(d.maps.source), c.tokens_of(d.maps.slot), c.tokens_of(experts),
                          d.travels ? 1 : kExpertRowAlign);
  }
  d.counted = start_counts(m, d, d.maps.counts.slice_rows(0, chunks).reshaped({chunks * E}));
}

void warn_of_rounds(const ModelContext& m, const Dispatch& d) {
  // Its group's first rank warns: other groups may fit, rank 0's among them.
  if (d.host->warned_of_rounds || m.mesh->ep->rank() != 0 || m.mesh->at.etp != 0) return;
  d.host->warned_of_rounds = true;
  log_warn(
      "layer {}: more tokens for one rank's experts than its buffers hold: the layer is done in {} rounds, which is "
      "slower but the same; raise parallel.imbalance_factor (now {}) or balance the router",
      d.layer, d.rounds, m.pass.imbalance_factor);
}

}  // namespace

DispatchHost make_dispatch_host(Device& device, Stream& stream, const Sizes& sizes, int ep, const MoeBuffers& limits) {
  DispatchHost h;
  h.counts = HostArray<std::int32_t>(device, static_cast<std::size_t>(ep * limits.chunks * sizes.E));
  h.pad = HostArray<std::int32_t>(device, static_cast<std::size_t>(limits.rows));
  h.unpad = HostArray<std::int32_t>(device, static_cast<std::size_t>(limits.received));
  h.next.resize(static_cast<std::size_t>(sizes.E_local));
  h.copies = stream.make_companion();
  return h;
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

void count_assignments(const ModelContext& m, Dispatch& d, const Tensor& experts) {
  count_in_chunks(m, d, experts, d.chunks.size());
}

void plan_transfers(const ModelContext& m, Dispatch& d) {
  const std::int64_t ep = m.mesh->ep->size(), me = m.mesh->ep->rank();
  finish(d.counted);
  const AssignmentCounts counts{std::span(d.host->counts), ep, static_cast<std::int64_t>(d.count), m.sizes.E};
  if (d.travels && most_received(counts) > d.limits.received) {
    // A token sends a rank at most min(k, E_local) rows, so this many tokens of every rank always fit.
    const std::int64_t fit = d.limits.received / (ep * std::min(m.sizes.k, m.sizes.E_local));
    d.rounds = (d.limits.tokens + fit - 1) / fit;
    warn_of_rounds(m, d);
    return;
  }
  if (d.travels) std::fill(d.host->pad.begin(), d.host->pad.end(), -1);
  std::int64_t row = 0, received = 0;
  for (std::int64_t i = 0; i < counts.chunks; ++i) {
    DispatchChunk& c = d.chunks[static_cast<std::size_t>(i)];
    lay_out(c, counts, i, me);
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

void plan_round(const ModelContext& m, Dispatch& d, const Tensor& experts) {
  const std::int64_t rounds = d.rounds;
  count_in_chunks(m, d, experts, 1);
  plan_transfers(m, d);
  UPCYCLE_CHECK(d.rounds == 1, "a round of {} tokens does not fit the expert buffers", experts.rows());
  d.rounds = rounds;
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
