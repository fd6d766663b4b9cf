#include "parallel/model/dispatch.h"

#include <algorithm>
#include <numeric>

#include "core/log.h"
#include "parallel/model/transformer.h"

namespace upcycle {
namespace {

std::int64_t aligned(std::int64_t rows) { return (rows + kExpertRowAlign - 1) / kExpertRowAlign * kExpertRowAlign; }

// Every rank's counts of every expert, on the host: (ep, E).
const std::vector<std::int32_t>& gather_counts(Transformer& m, const MoeState& moe) {
  if (m.mesh->ep->size() == 1) {
    m.device->copy_to_host(*m.stream, m.host_counts.data(), moe.counts.data, moe.counts.bytes());
  } else {
    const Tensor& all = m.activations.scratch.all_counts;
    m.stream->wait(m.mesh->ep->all_gather(all, moe.counts));
    m.device->copy_to_host(*m.stream, m.host_counts.data(), all.data, all.bytes());
  }
  m.stream->synchronize();
  return m.host_counts;
}

// The most rows that any rank of the group receives.
std::int64_t most_received(const std::vector<std::int32_t>& counts, std::int64_t ep, std::int64_t E) {
  std::int64_t most = 0;
  const std::int64_t E_local = E / ep;
  for (std::int64_t to = 0; to < ep; ++to) {
    std::int64_t received = 0;
    for (std::int64_t from = 0; from < ep; ++from)
      for (std::int64_t e = to * E_local; e < (to + 1) * E_local; ++e)
        received += counts[static_cast<std::size_t>(from * E + e)];
    most = std::max(most, received);
  }
  return most;
}

// Received rows come by source rank, then by local expert; expert rows by local expert, then by source rank. Fills the
// two maps between them.
void map_received(Transformer& m, const MoeState& moe, const DispatchPlan& plan) {
  const std::int64_t ep = m.mesh->ep->size(), E = m.sizes.E, E_local = m.sizes.E_local, me = m.mesh->ep->rank();
  std::fill(m.host_pad.begin(), m.host_pad.end(), -1);
  std::vector<std::int64_t>& next = m.host_next;  // (E_local) the next free row of each segment
  std::copy(plan.offsets.begin(), plan.offsets.end() - 1, next.begin());
  std::int32_t received = 0;
  for (std::int64_t from = 0; from < ep; ++from)
    for (std::int64_t e = 0; e < E_local; ++e)
      for (std::int32_t i = 0; i < m.host_counts[static_cast<std::size_t>(from * E + me * E_local + e)]; ++i) {
        const std::int64_t row = next[static_cast<std::size_t>(e)]++;
        m.host_pad[static_cast<std::size_t>(row)] = received;
        m.host_unpad[static_cast<std::size_t>(received++)] = static_cast<std::int32_t>(row);
      }
  m.device->copy_from_host(*m.stream, moe.pad.data, m.host_pad.data(), moe.pad.bytes());
  m.device->copy_from_host(*m.stream, moe.unpad.data, m.host_unpad.data(), moe.unpad.bytes());
}

void warn_of_rounds(Transformer& m, std::int64_t layer, std::int64_t rounds) {
  if (m.warned_of_rounds || m.mesh->rank != 0) return;
  m.warned_of_rounds = true;
  log_warn(
      "layer {}: more tokens for one rank's experts than its buffers hold: the layer is done in {} rounds, which is "
      "slower but the same; raise parallel.imbalance_factor (now {}) or balance the router",
      layer, rounds, m.pass.imbalance_factor);
}

std::int64_t total(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

}  // namespace

DispatchPlan make_plan(const Sizes& sizes, int ep) {
  DispatchPlan plan;
  plan.send_counts.resize(static_cast<std::size_t>(ep));
  plan.recv_counts.resize(static_cast<std::size_t>(ep));
  plan.offsets.resize(static_cast<std::size_t>(sizes.E_local) + 1);
  return plan;
}

void plan_dispatch(Transformer& m, std::int64_t layer, const Tensor& experts, DispatchPlan& plan) {
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const std::int64_t ep = m.mesh->ep->size(), E = m.sizes.E, E_local = m.sizes.E_local, me = m.mesh->ep->rank();
  const std::int64_t tokens = experts.rows();
  const Tensor slot = moe.slot.slice_rows(0, tokens);
  m.ops->sort_by_expert(*m.stream, m.workspace(), moe.counts, moe.source, slot, experts, ep == 1 ? kExpertRowAlign : 1);
  const std::vector<std::int32_t>& counts = gather_counts(m, moe);
  const MoeBuffers buffers = moe_buffers(m.sizes, m.mesh->layout, m.pass);
  plan.rounds = 1;
  if (ep > 1 && most_received(counts, ep, E) > buffers.received) {
    // A token sends a rank at most min(k, E_local) rows, so this many tokens of every rank always fit.
    const std::int64_t fit = buffers.received / (ep * std::min(m.sizes.k, E_local));
    plan.rounds = (buffers.tokens + fit - 1) / fit;
    warn_of_rounds(m, layer, plan.rounds);
    return;
  }
  std::fill(plan.recv_counts.begin(), plan.recv_counts.end(), 0);
  for (std::int64_t e = 0; e < E_local; ++e) {
    std::int64_t rows = 0;
    for (std::int64_t from = 0; from < ep; ++from) {
      const std::int64_t n = counts[static_cast<std::size_t>(from * E + me * E_local + e)];
      plan.recv_counts[static_cast<std::size_t>(from)] += n;
      rows += n;
    }
    plan.offsets[static_cast<std::size_t>(e + 1)] = plan.offsets[static_cast<std::size_t>(e)] + aligned(rows);
  }
  std::fill(plan.send_counts.begin(), plan.send_counts.end(), 0);
  for (std::int64_t e = 0; e < E; ++e)
    plan.send_counts[static_cast<std::size_t>(e / E_local)] +=
        counts[static_cast<std::size_t>((ep == 1 ? 0 : me) * E + e)];
  plan.slot_rows = ep == 1 ? plan.offsets.back() : tokens * m.sizes.k;
  if (ep > 1) map_received(m, moe, plan);
}

void plan_round(Transformer& m, std::int64_t layer, const Tensor& experts) {
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  const std::int64_t rounds = plan.rounds;
  plan_dispatch(m, layer, experts, plan);
  UPCYCLE_CHECK(plan.rounds == 1, "a round of {} tokens does not fit the expert buffers", experts.rows());
  plan.rounds = rounds;
}

Tensor to_experts(Transformer& m, std::int64_t layer, const DispatchPlan& plan, const Tensor& rows,
                  const Tensor& slots) {
  if (m.mesh->ep->size() == 1) return slots;
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const Tensor received = m.activations.scratch.received.slice_rows(0, total(plan.recv_counts));
  m.stream->wait(m.mesh->ep->all_to_all_v(received, plan.recv_counts, slots, plan.send_counts));
  const Tensor out = rows.slice_rows(0, plan.offsets.back());
  m.ops->gather_rows(*m.stream, out, received, moe.pad.slice_rows(0, plan.offsets.back()));
  return out;
}

Tensor from_experts(Transformer& m, std::int64_t layer, const DispatchPlan& plan, const Tensor& slots,
                    const Tensor& rows) {
  if (m.mesh->ep->size() == 1) return rows;
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  const std::int64_t n = total(plan.recv_counts);
  const Tensor received = m.activations.scratch.received.slice_rows(0, n);
  m.ops->gather_rows(*m.stream, received, rows, moe.unpad.slice_rows(0, n));
  const Tensor out = slots.slice_rows(0, plan.slot_rows);
  m.stream->wait(m.mesh->ep->all_to_all_v(out, plan.send_counts, received, plan.recv_counts));
  return out;
}

}  // namespace upcycle
