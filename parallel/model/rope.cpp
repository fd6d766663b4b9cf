#include "parallel/model/rope.h"

#include <cmath>
#include <numbers>

namespace upcycle {
namespace {

// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
double scale_frequency(double frequency, const RopeScaling& s) {
  if (s.rope_type.empty()) return frequency;
  const double context = static_cast<double>(s.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < context / s.high_freq_factor) return frequency;
  if (wavelength > context / s.low_freq_factor) return frequency / s.factor;
  const double smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

}  // namespace

void fill_rope_table(const Tensor& table, const ModelConfig& model) {
  const std::int64_t half = model.head_size() / 2;
  auto* out = table.as<float>();
  for (std::int64_t i = 0; i < half; ++i) {
    const double exponent = -static_cast<double>(2 * i) / static_cast<double>(2 * half);
    const double frequency = scale_frequency(std::pow(model.rope_theta, exponent), model.rope_scaling);
    for (std::int64_t p = 0; p < table.rows(); ++p) {
      const double angle = static_cast<double>(p) * frequency;
      out[p * 2 * half + i] = static_cast<float>(std::cos(angle));
      out[p * 2 * half + half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace upcycle
