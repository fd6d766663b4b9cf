#pragma once
#include <cmath>
#include <cstdint>

namespace upcycle {

inline bool ranks_above(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// The k best of E scores, in falling order: insertion into a sorted list of at most k. Strictly above: of equal scores
// the lower index, inserted first, stays ahead. A NaN ranks below every number.
inline void choose_experts(std::int32_t* experts, std::int64_t k, const float* scores, std::int64_t E) {
  std::int64_t size = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    if (size == k && !ranks_above(scores[e], scores[experts[k - 1]])) continue;
    std::int64_t place = size < k ? size++ : k - 1;
    for (; place > 0 && ranks_above(scores[e], scores[experts[place - 1]]); --place)
      experts[place] = experts[place - 1];
    experts[place] = static_cast<std::int32_t>(e);
  }
}

}  // namespace upcycle
