#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"

// How each expert tensor comes from a dense one. Pure functions of (configs, seed, indices), so that every layout makes
// the same experts.
namespace upcycle {

// The MoE that `dense` becomes: expert keys from `target`, all others the dense model's. Throws InputError, with
// `where` in front, where they do not fit together: `dense` has experts or `target` none, moe_intermediate_size is not
// F (copy) or does not divide it (virtual_group), E or k is not a multiple of G, and whatever check_model refuses.
ModelConfig upcycled_model(const ModelConfig& dense, const ModelConfig& target, const UpcycleConfig& upcycle,
                           const std::string& where);

// G: slices of a virtual group (each MLP cut in G, expert = group * G + slice; arXiv 2410.07524); 1 for copies.
std::int64_t slices(const ModelConfig& moe, const UpcycleConfig& upcycle);

// The factor on the whole expert that keeps the dense output at step 0: G under topk_then_softmax; G * E/k under
// softmax_then_topk (exact there only for k = E or a uniform router), where under sigmoid it is G * 2/k (exact only for
// a router of zeros). 1 where upcycle.scale is none.
double output_scale(const ModelConfig& moe, const UpcycleConfig& upcycle);
// Its share on one matrix: all of it on down ("down"), or the cube root on each of the three ("cube_root").
double matrix_scale(const ModelConfig& moe, const UpcycleConfig& upcycle, bool down);

// Whether the model at step 0 is the dense function up to rounding. It is with a shared expert (the routed ones add
// zero) and, without noise and drop, where the chosen weights' sum is known - 1 under topk_then_softmax or k = E (not
// of sigmoids), k/E, or k/2 of sigmoids, where router_std is 0 - and the factor to make up for it and for G is 1 or is
// applied to down only.
bool promises_exact(const ModelConfig& moe, const UpcycleConfig& upcycle);

// Drop-Upcycling (arXiv 2502.19261): which of the expert's moe_F hidden units are redrawn; one set shared by gate, up
// and down. Sorted; round(drop_ratio * moe_F) of them.
std::vector<std::int64_t> dropped_units(std::uint64_t seed, std::int64_t layer, std::int64_t expert, std::int64_t units,
                                        double drop_ratio);

// Mean and standard deviation of a matrix, from sums that do not depend on order: values are added as fixed-point
// integers (steps of 2^-60), so every layout and thread count draws from the same distribution. At most 2^33 values,
// each below 2^16 in size (Error otherwise).
struct MatrixStatistics {
  double mean = 0, std = 0;
};
class StatisticsSum {
 public:
  void add(const float* values, std::int64_t count);
  MatrixStatistics result() const;
  // The sums in limbs of 32 bits, which fp64 adds exactly for up to 2^20 ranks; from_limbs takes them added up.
  static constexpr std::size_t kLimbs = 9;
  std::array<double, kLimbs> limbs() const;
  static StatisticsSum from_limbs(const double* limbs);

 private:
  __int128 sum_ = 0, squares_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace upcycle
