#include "parallel/upcycle/expert_similarity.h"

#include <algorithm>
#include <cmath>

namespace upcycle {
namespace {

std::vector<float> read_expert(TensorSource& source, std::int64_t layer, std::int64_t expert) {
  const ModelConfig& m = source.model();
  const std::int64_t H = m.hidden_size, F = m.expert_size();
  std::vector<float> w(static_cast<std::size_t>(3 * F * H));
  source.read(canonical_name(ParamRole::ExpertGate, layer, expert), {0, 0, F, H}, w.data());
  source.read(canonical_name(ParamRole::ExpertUp, layer, expert), {0, 0, F, H}, w.data() + F * H);
  source.read(canonical_name(ParamRole::ExpertDown, layer, expert), {0, 0, H, F}, w.data() + 2 * F * H);
  return w;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sums[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= a.size(); i += 8)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (; i < a.size(); ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace

WeightSimilarity weight_similarity(TensorSource& model, TensorSource* start, std::int64_t layer) {
  const auto E = static_cast<std::size_t>(model.model().num_local_experts);
  std::vector<std::vector<float>> experts;
  std::vector<double> norms;
  for (std::size_t e = 0; e < E; ++e) {
    experts.push_back(read_expert(model, layer, static_cast<std::int64_t>(e)));
    norms.push_back(std::sqrt(dot(experts[e], experts[e])));
  }
  WeightSimilarity s;
  if (start != nullptr) {
    s.start = 0;
    for (std::size_t e = 0; e < E; ++e) {
      const std::vector<float> then = read_expert(*start, layer, static_cast<std::int64_t>(e));
      s.start += dot(experts[e], then) / (norms[e] * std::sqrt(dot(then, then))) / static_cast<double>(E);
    }
  }
  std::vector<std::pair<std::size_t, std::size_t>> pairs;
  for (std::size_t a = 0; a < E; ++a)
    for (std::size_t b = a + 1; b < E; ++b) pairs.emplace_back(a, b);
  if (pairs.empty()) return s;
  std::vector<double> cosines(pairs.size());
#pragma omp parallel for
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    const auto [a, b] = std::pair(pairs[p].first, pairs[p].second);
    cosines[p] = dot(experts[a], experts[b]) / (norms[a] * norms[b]);
  }
  s.pairs = 0;
  for (const double c : cosines) s.pairs += c / static_cast<double>(cosines.size());
  s.least_of_pairs = *std::min_element(cosines.begin(), cosines.end());
  return s;
}

std::size_t weight_similarity_bytes(const ModelConfig& m) {
  return static_cast<std::size_t>((m.num_local_experts + 1) * 3 * m.expert_size() * m.hidden_size) * sizeof(float);
}

}  // namespace upcycle
