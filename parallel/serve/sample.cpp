#include "parallel/serve/sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/rng.h"

namespace upcycle {

std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw) {
  const auto best = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (options.temperature <= 0) return best;
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  const double highest = logits[static_cast<std::size_t>(best)];
  std::vector<double> weights;
  for (const std::int32_t id : order)
    weights.push_back(std::exp((logits[static_cast<std::size_t>(id)] - highest) / options.temperature));
  // Nucleus (arXiv 1904.09751): the fewest tokens whose probability reaches top_p.
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  std::size_t n = 0;
  while (n < weights.size() && (n == 0 || kept < options.top_p * total)) kept += weights[n++];
  double u = kept * rng::uniform(options.seed, rng::key_of("generate"), draw);
  for (std::size_t i = 0; i < n; ++i) {
    u -= weights[i];
    if (u < 0) return order[i];
  }
  return order[n - 1];
}

}  // namespace upcycle
