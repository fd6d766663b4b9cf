#pragma once
#include <cstdint>
#include <vector>

namespace upcycle {

// How many standard deviations a loss lies above the mean of the last `n` losses, `window` (the oldest first; of more
// the newest n); -infinity where there are fewer, or all are equal.
double loss_z_score(const std::vector<double>& window, std::int64_t n, double loss);

// Adds a loss and drops what is older than the last `n`.
void accept_loss(std::vector<double>& window, std::int64_t n, double loss);

}  // namespace upcycle
