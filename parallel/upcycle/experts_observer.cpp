#include "parallel/upcycle/experts_observer.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/check.h"
#include "kernels/ops.h"

namespace upcycle {
namespace {

template <class T>
std::vector<T> on_host(const Transformer& m, const Tensor& t) {
  std::vector<T> host(static_cast<std::size_t>(t.size()));
  m.device->copy_to_host(*m.stream, host.data(), t.data, t.bytes());
  m.stream->synchronize();
  return host;
}

}  // namespace

ExpertsObserver::ExpertsObserver(Transformer& m, bool outputs) : m_(m), outputs_(outputs) {
  UPCYCLE_CHECK(!m.pass.training && m.mesh->layout.world == 1 && m.T() % m.pass.expert_row_align == 0,
                "experts observed in a pass of {} rows on {} ranks", m.T(), m.mesh->layout.world);
  for (std::int64_t l = 0; l < m.sizes.L; ++l) {
    if (!m.config.is_moe_layer(l)) continue;
    ObservedExperts& seen = layers_.emplace_back();
    seen.layer = l;
    seen.assignments.resize(static_cast<std::size_t>(m.sizes.E));
  }
}

void ExpertsObserver::activation(std::int64_t layer, const char* name, const Tensor&) {
  if (std::string_view(name) != "mlp") return;  // a layer's last
  for (ObservedExperts& seen : layers_) {
    if (seen.layer != layer) continue;
    LayerState& a = m_.activations.layers[static_cast<std::size_t>(layer)];
    add_routing(seen, a.moe.router);
    if (outputs_) add_outputs(seen, m_.weights.layers[static_cast<std::size_t>(layer)], a);
  }
}

void ExpertsObserver::add_routing(ObservedExperts& seen, const RouterState& router) {
  const auto chosen = on_host<std::int32_t>(m_, router.experts);
  for (const std::int32_t e : chosen) ++seen.assignments[static_cast<std::size_t>(e)];
  seen.chosen.insert(seen.chosen.end(), chosen.begin(), chosen.end());
  for (const float p : on_host<float>(m_, router.probs))
    if (p > 0) seen.entropy -= static_cast<double>(p) * std::log(static_cast<double>(p));
  seen.tokens += m_.T();
}

// With unit vectors u_e of n experts, the mean over pairs of <u_a, u_b> is (|sum of u|^2 - n) / (n (n - 1)).
void ExpertsObserver::add_outputs(ObservedExperts& seen, const LayerWeights& w, LayerState& a) {
  const std::int64_t T = m_.T(), H = m_.sizes.H, E = m_.sizes.E;
  const Tensor gate_up = a.moe.experts.gate_up.slice_rows(0, T), act = a.moe.experts.act.slice_rows(0, T),
               output = a.moe.experts.output.slice_rows(0, T);
  const Tensor wide = m_.activations.scratch.moe.router.x;  // fp32 (T, H)
  std::vector<double> sums(static_cast<std::size_t>(T * H));
  std::vector<std::int64_t> counted(static_cast<std::size_t>(T));
  for (std::int64_t e = 0; e < E; ++e) {
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(E) + 1);  // all rows are this expert's
    std::fill(offsets.begin() + e + 1, offsets.end(), T);
    const auto product = [&](const Tensor& to, const Tensor& from, const Tensor& weights) {
      m_.ops->grouped_matmul(*m_.stream, m_.workspace, MatmulKind::NT, to, from, weights, offsets, Store::Overwrite,
                             m_.pass.expert_row_align);
    };
    product(gate_up, a.mlp_norm.in ? a.x_mid : a.mlp_norm.out, w.expert_gate_up);
    m_.ops->swiglu_forward(*m_.stream, act, gate_up, gate_activation(m_.config));
    product(output, act, w.expert_down);
    m_.ops->convert(*m_.stream, wide, output);
    const auto rows = on_host<float>(m_, wide);
    for (std::int64_t t = 0; t < T; ++t) {
      const float* const row = rows.data() + t * H;
      double squares = 0;
      for (std::int64_t h = 0; h < H; ++h) squares += static_cast<double>(row[h]) * static_cast<double>(row[h]);
      if (squares == 0) continue;
      ++counted[static_cast<std::size_t>(t)];
      for (std::int64_t h = 0; h < H; ++h)
        sums[static_cast<std::size_t>(t * H + h)] += static_cast<double>(row[h]) / std::sqrt(squares);
    }
  }
  for (std::int64_t t = 0; t < T; ++t) {
    const auto n = static_cast<double>(counted[static_cast<std::size_t>(t)]);
    if (n < 2) continue;
    double squares = 0;
    for (std::int64_t h = 0; h < H; ++h) {
      const double sum = sums[static_cast<std::size_t>(t * H + h)];
      squares += sum * sum;
    }
    seen.output_cosine += (squares - n) / (n * (n - 1));
    ++seen.compared_tokens;
  }
}

double routing_changed(const ObservedExperts& a, const ObservedExperts& b, std::int64_t k) {
  UPCYCLE_CHECK(a.chosen.size() == b.chosen.size(), "{} and {} assignments", a.chosen.size(), b.chosen.size());
  std::int64_t changed = 0;
  for (std::size_t i = 0; i < a.chosen.size(); ++i) {
    const auto others = b.chosen.begin() + static_cast<std::ptrdiff_t>(i) / k * k;
    changed += std::find(others, others + k, a.chosen[i]) == others + k;
  }
  return static_cast<double>(changed) / static_cast<double>(a.chosen.size());
}

}  // namespace upcycle
