#include "core/measure.h"

#include <cmath>

#include "core/check.h"

namespace upcycle {

double distance(std::span<const float> a, std::span<const float> b) {
  UPCYCLE_CHECK(a.size() == b.size(), "{} and {} elements", a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return std::sqrt(sum);
}

double norm(std::span<const float> a) {
  double sum = 0;
  for (const float x : a) sum += double(x) * x;
  return std::sqrt(sum);
}

}  // namespace upcycle
