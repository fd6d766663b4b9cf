#include "parallel/train/loss_window.h"

#include <cmath>
#include <limits>

namespace upcycle {

// From the losses themselves each time, in their order, and not from running sums: a resumed run, which has read them,
// gets the same bits.
double loss_z_score(const std::vector<double>& window, std::int64_t n, double loss) {
  const auto size = static_cast<std::int64_t>(window.size());
  if (size < n) return -std::numeric_limits<double>::infinity();
  const auto begin = window.end() - n;
  double sum = 0, squares = 0;
  for (auto x = begin; x != window.end(); ++x) sum += *x;
  const double mean = sum / static_cast<double>(n);
  for (auto x = begin; x != window.end(); ++x) squares += (*x - mean) * (*x - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(n - 1));
  if (!(deviation > 0)) return -std::numeric_limits<double>::infinity();
  return (loss - mean) / deviation;
}

void accept_loss(std::vector<double>& window, std::int64_t n, double loss) {
  const auto size = static_cast<std::int64_t>(window.size());
  if (size >= n) window.erase(window.begin(), window.begin() + (size - n + 1));
  window.push_back(loss);
}

}  // namespace upcycle
