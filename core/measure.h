#pragma once
#include <span>

// By what two computations of one tensor are compared, in fp32, where only the order of sums differs (another layout,
// another device):
//   ||a - b|| <= 1e-5 ||a|| + 1e-7 ||all a||
// `all a` is everything of the tensor's kind in the step (all gradients ...): what nearly cancels is measured by what
// it stands among.
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
