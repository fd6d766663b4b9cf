#pragma once
#include <functional>
#include <vector>

namespace upcycle {

using Values = std::vector<double>;

// The gradient of f at `at`, by central differences.
inline Values differences(Values at, const std::function<double(const Values&)>& f) {
  Values gradient(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double before = at[i], eps = 1e-5;
    at[i] = before + eps;
    const double above = f(at);
    at[i] = before - eps;
    gradient[i] = (above - f(at)) / (2 * eps);
    at[i] = before;
  }
  return gradient;
}

}  // namespace upcycle
