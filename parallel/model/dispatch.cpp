#include "parallel/model/dispatch.h"

#include <algorithm>
#include <numeric>

#include "core/log.h"
#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

std::int64_t aligned(std::int64_t rows) { return (rows + kExpertRowAlign - 1) / kExpertRowAlign * kExpertRowAlign; }

// Every rank's counts of every expert, (ep, chunks, E), start on their way to the host, beside the ops that follow.
Event start_counts(Transformer& m, const Tensor& counts) {
  Tensor all = counts;
  if (m.mesh->ep->size() == 1) {
    m.copies->wait(m.stream->record());
  } else {
    all = Tensor(m.activations.scratch.all_counts.data, DType::I32, {m.mesh->ep->size(), counts.size()});
    m.copies->wait(m.mesh->ep->all_gather(all, counts));
  }
  m.device->copy_to_host(*m.copies, m.host_counts.data(), all.data, all.bytes());
  return m.copies->record();
}

// start_counts' numbers: what rank `from` has for global expert e in one chunk.
struct Counts {
  const HostArray<std::int32_t>& all;
  std::int64_t chunks, E;
  std::int64_t of(std::int64_t from, std::int64_t chunk, std::int64_t e) const {
    return all[static_cast<std::size_t>((from * chunks + chunk) * E + e)];
  }
};

// The most rows that any rank of the group receives.
std::int64_t most_received(const Counts& counts, std::int64_t ep) {
  std::int64_t most = 0;
  const std::int64_t E_local = counts.E / ep;
  for (std::int64_t to = 0; to < ep; ++to) {
    std::int64_t received = 0;
    for (std::int64_t from = 0; from < ep; ++from)
      for (std::int64_t c = 0; c < counts.chunks; ++c)
        for (std::int64_t e = to * E_local; e < (to + 1) * E_local; ++e) received += counts.of(from, c, e);
    most = std::max(most, received);
  }
  return most;
}

// A chunk's rows to and from each rank, and its experts' segments. `me`: this rank's place in `counts`.
void lay_out(DispatchChunk& chunk, const Counts& counts, std::int64_t index, std::int64_t ep, std::int64_t me) {
  const std::int64_t E_local = counts.E / ep;
  std::fill(chunk.send_counts.begin(), chunk.send_counts.end(), 0);
  std::fill(chunk.recv_counts.begin(), chunk.recv_counts.end(), 0);
  for (std::int64_t e = 0; e < E_local; ++e) {
    std::int64_t rows = 0;
    for (std::int64_t from = 0; from < ep; ++from) {
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

// Received rows come by source rank, then by local expert; expert rows by local expert, then by source rank. Fills the
// chunk's part of the two maps between them.
void map_received(Transformer& m, const DispatchChunk& chunk, const Counts& counts, std::int64_t index) {
  const std::int64_t ep = m.mesh->ep->size(), E_local = m.sizes.E_local, me = m.mesh->ep->rank();
  std::vector<std::int64_t>& next = m.host_next;  // (E_local) the next free row of each segment
  std::copy(chunk.offsets.begin(), chunk.offsets.end() - 1, next.begin());
  std::int32_t* const pad = m.host_pad.data() + chunk.row_begin;
  std::int32_t* const unpad = m.host_unpad.data() + chunk.received_begin;
  std::int32_t received = 0;
  for (std::int64_t from = 0; from < ep; ++from)
    for (std::int64_t e = 0; e < E_local; ++e)
      for (std::int64_t i = counts.of(from, index, me * E_local + e); i > 0; --i) {
        const std::int64_t row = next[static_cast<std::size_t>(e)]++;
        pad[row] = received;
        unpad[received++] = static_cast<std::int32_t>(row);
      }
}

void warn_of_rounds(Transformer& m, std::int64_t layer, std::int64_t rounds) {
  // Its group's first rank warns: other groups may fit, rank 0's among them.
  if (m.warned_of_rounds || m.mesh->ep->rank() != 0 || m.mesh->at.etp != 0) return;
  m.warned_of_rounds = true;
  log_warn(
      "layer {}: more tokens for one rank's experts than its buffers hold: the layer is done in {} rounds, which is "
      "slower but the same; raise parallel.imbalance_factor (now {}) or balance the router",
      layer, rounds, m.pass.imbalance_factor);
}

void start_in_chunks(Transformer& m, std::int64_t layer, const Tensor& experts, DispatchPlan& plan, std::size_t count) {
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const std::int64_t ep = m.mesh->ep->size(), E = m.sizes.E, tokens = experts.rows();
  const auto chunks = static_cast<std::int64_t>(count);
  plan.count = count;
  plan.rounds = 1;
  for (std::int64_t i = 0; i < chunks; ++i) {
    DispatchChunk& c = plan.chunks[static_cast<std::size_t>(i)];
    c.token_begin = tokens * i / chunks;
    c.token_end = tokens * (i + 1) / chunks;
    c.slot_begin = c.token_begin * m.sizes.k;
    c.slot_rows = ep == 1 ? moe.source.rows() : (c.token_end - c.token_begin) * m.sizes.k;
    m.ops->sort_by_expert(*m.stream, m.workspace(), moe.counts.slice_rows(i, i + 1).reshaped({E}),
                          c.slots_of(moe.source), c.tokens_of(moe.slot), c.tokens_of(experts),
                          ep == 1 ? kExpertRowAlign : 1);
  }
  plan.counted = start_counts(m, moe.counts.slice_rows(0, chunks).reshaped({chunks * E}));
}

void finish_in_chunks(Transformer& m, std::int64_t layer, DispatchPlan& plan) {
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const std::int64_t ep = m.mesh->ep->size();
  const auto chunks = static_cast<std::int64_t>(plan.count);
  finish(plan.counted);
  const Counts counts{m.host_counts, chunks, m.sizes.E};
  const MoeBuffers buffers = moe_buffers(m.sizes, m.mesh->layout, m.pass);
  if (ep > 1 && most_received(counts, ep) > buffers.received) {
    // A token sends a rank at most min(k, E_local) rows, so this many tokens of every rank always fit.
    const std::int64_t fit = buffers.received / (ep * std::min(m.sizes.k, m.sizes.E_local));
    plan.rounds = (buffers.tokens + fit - 1) / fit;
    warn_of_rounds(m, layer, plan.rounds);
    return;
  }
  if (ep > 1) std::fill(m.host_pad.begin(), m.host_pad.end(), -1);
  std::int64_t row = 0, received = 0;
  for (std::int64_t i = 0; i < chunks; ++i) {
    DispatchChunk& c = plan.chunks[static_cast<std::size_t>(i)];
    lay_out(c, counts, i, ep, m.mesh->ep->rank());
    c.row_begin = row;
    c.received_begin = received;
    row += c.rows();
    received += c.received_rows;
    if (ep == 1)
      c.slot_rows = c.rows();
    else
      map_received(m, c, counts, i);
  }
  if (ep == 1) return;
  m.device->copy_from_host(*m.stream, moe.pad.data, m.host_pad.data(), moe.pad.bytes());
  m.device->copy_from_host(*m.stream, moe.unpad.data, m.host_unpad.data(), moe.unpad.bytes());
}

}  // namespace

DispatchPlan make_plan(const Sizes& sizes, int ep, std::int64_t chunks) {
  DispatchPlan plan;
  plan.chunks.resize(static_cast<std::size_t>(chunks));
  for (DispatchChunk& c : plan.chunks) {
    c.send_counts.resize(static_cast<std::size_t>(ep));
    c.recv_counts.resize(static_cast<std::size_t>(ep));
    c.offsets.resize(static_cast<std::size_t>(sizes.E_local) + 1);
  }
  return plan;
}

void start_plan(Transformer& m, std::int64_t layer, const Tensor& experts) {
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  start_in_chunks(m, layer, experts, plan, plan.chunks.size());
}

void finish_plan(Transformer& m, std::int64_t layer) {
  finish_in_chunks(m, layer, m.plans[static_cast<std::size_t>(layer)]);
}

void plan_round(Transformer& m, std::int64_t layer, const Tensor& experts) {
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  const std::int64_t rounds = plan.rounds;
  start_in_chunks(m, layer, experts, plan, 1);
  finish_in_chunks(m, layer, plan);
  UPCYCLE_CHECK(plan.rounds == 1, "a round of {} tokens does not fit the expert buffers", experts.rows());
  plan.rounds = rounds;
}

void start_to_experts(Transformer& m, DispatchChunk& chunk, const Tensor& slots) {
  if (m.mesh->ep->size() == 1) return;
  chunk.transfer = m.mesh->ep->all_to_all_v(chunk.received_of(m.activations.scratch.received), chunk.recv_counts,
                                            chunk.slots_of(slots), chunk.send_counts);
}

Tensor finish_to_experts(Transformer& m, std::int64_t layer, DispatchChunk& chunk, const Tensor& rows,
                         const Tensor& slots) {
  if (m.mesh->ep->size() == 1) return chunk.slots_of(slots);
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  m.stream->wait(chunk.transfer);
  const Tensor out = chunk.rows_of(rows);
  m.ops->gather_rows(*m.stream, out, chunk.received_of(m.activations.scratch.received), chunk.rows_of(moe.pad));
  return out;
}

void start_from_experts(Transformer& m, std::int64_t layer, DispatchChunk& chunk, const Tensor& slots,
                        const Tensor& rows) {
  if (m.mesh->ep->size() == 1) return;
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const Tensor received = chunk.received_of(m.activations.scratch.received);
  m.ops->gather_rows(*m.stream, received, chunk.rows_of(rows), chunk.received_of(moe.unpad));
  chunk.transfer = m.mesh->ep->all_to_all_v(chunk.slots_of(slots), chunk.send_counts, received, chunk.recv_counts);
}

void finish_from_experts(Transformer& m, DispatchChunk& chunk) { m.stream->wait(chunk.transfer); }

}  // namespace upcycle
