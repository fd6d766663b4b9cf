#include "parallel/upcycle/rules.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/error.h"
#include "core/rng.h"

namespace upcycle {

ModelConfig upcycled_model(const ModelConfig& dense, const ModelConfig& target, const UpcycleConfig& upcycle,
                           const std::string& where) {
  if (dense.is_moe())
    input_error("{}: upcycling needs a dense model, found one with {} experts; use init.load to go on with it", where,
                dense.num_local_experts);
  if (!target.is_moe())
    input_error("{}: upcycling needs model.num_local_experts (>= 1), found none; set it, e.g. to 8", where);
  ModelConfig moe = with_experts_of(target, dense);
  if (moe.moe_intermediate_size == 0) moe.moe_intermediate_size = dense.intermediate_size;
  check_model(moe, where);
  const std::int64_t F = dense.intermediate_size, slice = moe.expert_size();
  if (moe.shared_expert && moe.shared_size() != F)
    input_error(
        "{}: model.shared_expert_size: found {}, expected 0 or the dense intermediate_size {}: the shared expert "
        "starts "
        "as the dense MLP",
        where, moe.shared_expert_size, F);
  if (moe.shared_expert_gate)
    input_error(
        "{}: model.shared_expert_gate: found true, expected false: a new gate would halve the dense MLP; leave it out "
        "(an export as Qwen2-MoE writes one that changes nothing)",
        where);
  if (upcycle.mode == "copy") {
    if (slice != F)
      input_error(
          "{}: model.moe_intermediate_size = {} with upcycle.mode copy; expected the dense intermediate_size {} "
          "(or upcycle.mode virtual_group)",
          where, slice, F);
    return moe;
  }
  if (F % slice != 0)
    input_error(
        "{}: model.moe_intermediate_size = {} does not divide the dense intermediate_size {}; virtual groups need "
        "G = F / moe_intermediate_size slices of one size",
        where, slice, F);
  const std::int64_t G = F / slice;
  if (target.moe_intermediate_size == 0)
    input_error(
        "{}: model.moe_intermediate_size: found none with upcycle.mode virtual_group, expected the size of a slice, "
        "the "
        "dense intermediate_size {} / G (or upcycle.mode copy)",
        where, F);
  if (moe.num_local_experts % G != 0)
    input_error("{}: model.num_local_experts = {} is not a multiple of G = {} slices", where, moe.num_local_experts, G);
  if (moe.num_experts_per_tok % G != 0)
    input_error(
        "{}: model.num_experts_per_tok = {} is not a multiple of G = {} slices (a token must take whole groups)", where,
        moe.num_experts_per_tok, G);
  return moe;
}

std::int64_t slices(const ModelConfig& moe, const UpcycleConfig& upcycle) {
  return upcycle.mode == "virtual_group" ? moe.intermediate_size / moe.expert_size() : 1;
}

double output_scale(const ModelConfig& moe, const UpcycleConfig& upcycle) {
  if (upcycle.scale == "none") return 1;
  const double k = static_cast<double>(moe.num_experts_per_tok), E = static_cast<double>(moe.num_local_experts);
  const double each = moe.router_score == "sigmoid" ? 2 : E;  // one over an expert's weight by a router of zeros
  const double weights = moe.router_softmax == "softmax_then_topk" ? each / k : 1;
  return weights * static_cast<double>(slices(moe, upcycle));
}

double matrix_scale(const ModelConfig& moe, const UpcycleConfig& upcycle, bool down) {
  const double scale = output_scale(moe, upcycle);
  if (upcycle.scale == "cube_root") return std::cbrt(scale);
  return down ? scale : 1;
}

bool promises_exact(const ModelConfig& moe, const UpcycleConfig& upcycle) {
  if (moe.shared_expert) return true;  // the routed experts add zero
  if (upcycle.noise_std != 0 || upcycle.drop_ratio != 0) return false;
  const std::int64_t E = moe.num_local_experts, k = moe.num_experts_per_tok;
  const bool takes_a_part = moe.router_softmax == "softmax_then_topk" && (k < E || moe.router_score == "sigmoid");
  if (takes_a_part && upcycle.router_std != 0) return false;  // the chosen weights' sum differs from token to token
  // The factor that the dense function needs; a cube root other than 1 does not commute with SwiGLU.
  const bool needs_none = slices(moe, upcycle) == 1 && !takes_a_part;
  return needs_none || upcycle.scale == "down";
}

std::vector<std::int64_t> dropped_units(std::uint64_t seed, std::int64_t layer, std::int64_t expert, std::int64_t units,
                                        double drop_ratio) {
  const std::int64_t count = std::lround(drop_ratio * static_cast<double>(units));
  const std::uint64_t key = rng::key_of("drop." + std::to_string(layer) + "." + std::to_string(expert));
  std::vector<std::pair<std::uint64_t, std::int64_t>> order;
  for (std::int64_t u = 0; u < units; ++u) {
    const auto b = rng::bits(seed, key, static_cast<std::uint64_t>(u));
    order.emplace_back(static_cast<std::uint64_t>(b[0]) << 32 | b[1], u);
  }
  std::sort(order.begin(), order.end());
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < count; ++i) chosen.push_back(order[static_cast<std::size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

namespace {
constexpr double kFixedPoint = 0x1p60;  // 128 bits hold 2^33 squares of values below kLargest
constexpr double kLargest = 0x1p16;
}  // namespace

void StatisticsSum::add(const float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const double x = values[i];
    UPCYCLE_CHECK(std::abs(x) < kLargest, "a value of {}", x);
    sum_ += static_cast<__int128>(std::nearbyint(x * kFixedPoint));
    squares_ += static_cast<__int128>(std::nearbyint(x * x * kFixedPoint));
  }
  count_ += count;
}

std::array<double, StatisticsSum::kLimbs> StatisticsSum::limbs() const {
  std::array<double, kLimbs> all{};
  for (std::size_t i = 0; i < 4; ++i) {
    all[i] = static_cast<std::uint32_t>(static_cast<unsigned __int128>(sum_) >> (32 * i));
    all[4 + i] = static_cast<std::uint32_t>(static_cast<unsigned __int128>(squares_) >> (32 * i));
  }
  all[8] = static_cast<double>(count_);
  return all;
}

// Two's complement: sums of limbs carry modulo 2^128, which is what adding the signed numbers does.
StatisticsSum StatisticsSum::from_limbs(const double* limbs) {
  const auto joined = [](const double* four) {
    unsigned __int128 value = 0;
    for (int i = 0; i < 4; ++i)
      value += static_cast<unsigned __int128>(static_cast<std::uint64_t>(four[i])) << (32 * i);
    return static_cast<__int128>(value);
  };
  StatisticsSum s;
  s.sum_ = joined(limbs);
  s.squares_ = joined(limbs + 4);
  s.count_ = static_cast<std::int64_t>(limbs[8]);
  return s;
}

MatrixStatistics StatisticsSum::result() const {
  if (count_ == 0) return {};
  const double n = static_cast<double>(count_), mean = static_cast<double>(sum_) / kFixedPoint / n;
  const double variance = static_cast<double>(squares_) / kFixedPoint / n - mean * mean;
  return {mean, std::sqrt(std::max(0.0, variance))};
}

}  // namespace upcycle
