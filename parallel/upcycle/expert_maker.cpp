#include "parallel/upcycle/expert_maker.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/rng.h"

namespace upcycle {
namespace {

bool is_router(const ParamRow& row) { return row.role == ParamRole::Router; }
// What the dense model has nothing of.
bool is_new(const ParamRow& row) { return is_router(row) || row.role == ParamRole::RouterBias; }
bool is_down(const ParamRow& row) { return row.role == ParamRole::ExpertDown; }

// What a parameter of the MoE is in the dense model: an expert's matrix comes from the MLP's, all else keeps its role.
ParamRole dense_role(ParamRole role) {
  switch (role) {
    case ParamRole::ExpertGate:
    case ParamRole::SharedGate:
      return ParamRole::Gate;
    case ParamRole::ExpertUp:
    case ParamRole::SharedUp:
      return ParamRole::Up;
    case ParamRole::ExpertDown:
    case ParamRole::SharedDown:
      return ParamRole::Down;
    default:
      return role;
  }
}

std::uint64_t element(const ParamRow& row, std::int64_t r, std::int64_t c) {
  return static_cast<std::uint64_t>(r * row.columns + c);
}

}  // namespace

ExpertMaker::ExpertMaker(const ModelConfig& moe, const UpcycleConfig& upcycle, std::uint64_t seed,
                         DenseStatistics statistics)
    : moe_(moe), upcycle_(upcycle), seed_(seed), statistics_(std::move(statistics)) {}

Origin ExpertMaker::origin(const ParamRow& row, const Rectangle& part) const {
  if (is_new(row)) return {};
  if (row.expert < 0) return {retained_tensor(row), part};
  const std::int64_t shift = row.expert % slices(moe_, upcycle_) * moe_.expert_size();
  if (moe_.shared_expert && is_down(row)) return {};
  const Rectangle shifted = is_down(row) ? Rectangle{part.row, part.column + shift, part.rows, part.columns}
                                         : Rectangle{part.row + shift, part.column, part.rows, part.columns};
  return {canonical_name(dense_role(row.role), row.layer), shifted};
}

bool ExpertMaker::changes(const ParamRow& row) const {
  if (is_new(row)) return true;
  if (row.expert < 0) return false;
  if (moe_.shared_expert && is_down(row)) return true;
  return upcycle_.drop_ratio > 0 || upcycle_.noise_std > 0 ||
         static_cast<float>(matrix_scale(moe_, upcycle_, is_down(row))) != 1;
}

void ExpertMaker::make(const ParamRow& row, const Rectangle& part, float* values) const {
  if (is_router(row)) return draw_router(row, part, values);
  if (is_new(row)) {
    std::fill(values, values + part.size(), 0.0f);
    return;
  }
  if (row.expert < 0) return;
  if (moe_.shared_expert && is_down(row)) {
    std::fill(values, values + part.size(), 0.0f);
    return;
  }
  if (upcycle_.drop_ratio > 0) drop(row, part, values);
  if (upcycle_.noise_std > 0) add_noise(row, part, values);
  const auto scale = static_cast<float>(matrix_scale(moe_, upcycle_, is_down(row)));
  if (scale != 1) std::transform(values, values + part.size(), values, [scale](float x) { return x * scale; });
}

bool ExpertMaker::commutes_with_rounding() const {
  const auto power_of_two = [&](bool down) {
    int exponent = 0;
    return std::frexp(static_cast<float>(matrix_scale(moe_, upcycle_, down)), &exponent) == 0.5f;
  };
  return upcycle_.drop_ratio == 0 && upcycle_.noise_std == 0 && power_of_two(false) &&
         (moe_.shared_expert || power_of_two(true));
}

void ExpertMaker::draw_router(const ParamRow& row, const Rectangle& part, float* values) const {
  const std::uint64_t key = rng::key_of(row.name);
  const std::int64_t G = slices(moe_, upcycle_);
  for (std::int64_t r = 0; r < part.rows; ++r)
    for (std::int64_t c = 0; c < part.columns; ++c)
      values[r * part.columns + c] = static_cast<float>(
          upcycle_.router_std * rng::normal(seed_, key, element(row, (part.row + r) / G, part.column + c)));
}

void ExpertMaker::add_noise(const ParamRow& row, const Rectangle& part, float* values) const {
  const std::uint64_t key = rng::key_of(row.name + ".noise");
  for (std::int64_t r = 0; r < part.rows; ++r)
    for (std::int64_t c = 0; c < part.columns; ++c)
      values[r * part.columns + c] +=
          static_cast<float>(upcycle_.noise_std * rng::normal(seed_, key, element(row, part.row + r, part.column + c)));
}

const std::vector<bool>& ExpertMaker::dropped(const ParamRow& row) const {
  std::vector<bool>& units = dropped_[{row.layer, row.expert}];
  if (units.empty()) {
    const std::int64_t F = moe_.expert_size();
    units.resize(static_cast<std::size_t>(F));
    for (const std::int64_t u : dropped_units(seed_, row.layer, row.expert, F, upcycle_.drop_ratio))
      units[static_cast<std::size_t>(u)] = true;
  }
  return units;
}

void ExpertMaker::drop(const ParamRow& row, const Rectangle& part, float* values) const {
  const auto known = statistics_.find(origin(row, part).tensor);
  UPCYCLE_CHECK(known != statistics_.end(), "{}: no statistics of the matrix it is made of", row.name);
  const MatrixStatistics& s = known->second;
  const std::uint64_t key = rng::key_of(row.name + ".drop");
  const auto redraw = [&](std::int64_t r, std::int64_t c) {
    values[(r - part.row) * part.columns + c - part.column] =
        static_cast<float>(s.mean + s.std * rng::normal(seed_, key, element(row, r, c)));
  };
  const std::vector<bool>& is_dropped = dropped(row);
  const bool down = is_down(row);
  for (std::int64_t r = part.row; r < part.row + part.rows; ++r)
    for (std::int64_t c = part.column; c < part.column + part.columns; ++c)
      if (is_dropped[static_cast<std::size_t>(down ? c : r)]) redraw(r, c);
}

std::string retained_tensor(const ParamRow& row) {
  if (row.expert >= 0 || is_new(row)) return "";
  return canonical_name(dense_role(row.role), row.layer);
}

std::vector<DenseMatrix> expert_origins(const ModelConfig& moe) {
  std::vector<DenseMatrix> all;
  const std::int64_t H = moe.hidden_size, F = moe.intermediate_size;
  for (std::int64_t l = 0; l < moe.num_hidden_layers; ++l) {
    if (!moe.is_moe_layer(l)) continue;
    all.push_back({canonical_name(ParamRole::Gate, l), F, H});
    all.push_back({canonical_name(ParamRole::Up, l), F, H});
    all.push_back({canonical_name(ParamRole::Down, l), H, F});
  }
  return all;
}

}  // namespace upcycle
