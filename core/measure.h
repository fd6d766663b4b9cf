#pragma once
#include <span>

// How two fp32 computations of one tensor are compared when only the order of sums differs (another layout or device):
//   ||a - b|| <= 1e-5 ||a|| + 1e-7 ||all a||
// `all a` is all tensors of that kind in the step (e.g. all gradients), so that a tensor whose terms nearly cancel is
// judged relative to the others.
namespace upcycle {

inline constexpr double kMeasureRelative = 1e-5;

// ||a - b|| and ||a||, in fp64.
double distance(std::span<const float> a, std::span<const float> b);
double norm(std::span<const float> a);

// The right side of the measure.
inline double allowed_distance(double norm_a, double norm_of_all, double relative = kMeasureRelative) {
  return relative * norm_a + relative / 100 * norm_of_all;
}

}  // namespace upcycle
