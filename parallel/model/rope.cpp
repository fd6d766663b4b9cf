#include "parallel/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace upcycle {
namespace {

// The frequencies of a head's R/2 pairs; cosines and sines are multiplied by `factor`.
struct Rotation {
  std::vector<double> frequencies;
  double factor = 1;
};

// Llama 3.1's model card: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double llama3(double frequency, const RopeScaling& s) {
  const double context = static_cast<double>(s.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < context / s.high_freq_factor) return frequency;
  if (wavelength > context / s.low_freq_factor) return frequency / s.factor;
  const double smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

// YaRN (arXiv 2309.00071): pairs that turn more than beta_fast times in the original context are kept, those that turn
// less than beta_slow times stretched, and between the two a ramp over the pairs' numbers.
void yarn(Rotation& rotation, const ModelConfig& model) {
  const RopeScaling& s = model.rope_scaling;
  const double R = static_cast<double>(model.rotary_size()),
               context = static_cast<double>(s.original_max_position_embeddings);
  const auto pair_that_turns = [&](double times) {
    return R * std::log(context / (times * 2 * std::numbers::pi)) / (2 * std::log(model.rope_theta));
  };
  double low = pair_that_turns(s.beta_fast), high = pair_that_turns(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, R - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < rotation.frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& f = rotation.frequencies[i];
    f = f / s.factor * stretched + f * (1 - stretched);
  }
  const auto scale = [&](double m) { return s.factor <= 1 ? 1 : 0.1 * m * std::log(s.factor) + 1; };
  const bool both = s.mscale != 0 && s.mscale_all_dim != 0;
  rotation.factor = both ? scale(s.mscale) / scale(s.mscale_all_dim) : scale(1);
}

// LongRoPE (arXiv 2402.13753) in Phi-3's form.
void longrope(Rotation& rotation, const ModelConfig& model, std::int64_t S) {
  const RopeScaling& s = model.rope_scaling;
  const std::vector<double>& divisors = S > s.original_max_position_embeddings ? s.long_factor : s.short_factor;
  for (std::size_t i = 0; i < rotation.frequencies.size(); ++i) rotation.frequencies[i] /= divisors[i];
  const double original = static_cast<double>(s.original_max_position_embeddings);
  const double factor = s.factor > 1 ? s.factor : static_cast<double>(model.max_position_embeddings) / original;
  rotation.factor = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
}

Rotation rotation_of(const ModelConfig& model, std::int64_t S) {
  const RopeScaling& s = model.rope_scaling;
  const std::int64_t R = model.rotary_size();
  Rotation rotation;
  for (std::int64_t i = 0; i < R / 2; ++i)
    rotation.frequencies.push_back(std::pow(model.rope_theta, -static_cast<double>(2 * i) / static_cast<double>(R)));
  // "dynamic" changes theta past max_position_embeddings, and no sequence is that long here.
  for (double& f : rotation.frequencies)
    if (s.rope_type == "linear")
      f /= s.factor;
    else if (s.rope_type == "llama3")
      f = llama3(f, s);
  if (s.rope_type == "yarn") yarn(rotation, model);
  if (s.rope_type == "longrope") longrope(rotation, model, S);
  if ((s.rope_type == "yarn" || s.rope_type == "longrope") && s.attention_factor != 0)
    rotation.factor = s.attention_factor;
  return rotation;
}

}  // namespace

void fill_rope_table(const Tensor& table, const ModelConfig& model, std::int64_t S) {
  const Rotation rotation = rotation_of(model, S);
  const auto half = static_cast<std::int64_t>(rotation.frequencies.size());
  auto* out = table.as<float>();
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = rotation.frequencies[static_cast<std::size_t>(i)];
    for (std::int64_t p = 0; p < table.rows(); ++p) {
      const double angle = static_cast<double>(p) * frequency;
      out[p * 2 * half + i] = static_cast<float>(std::cos(angle) * rotation.factor);
      out[p * 2 * half + half + i] = static_cast<float>(std::sin(angle) * rotation.factor);
    }
  }
}

void check_sequence_length(const ModelConfig& model, std::int64_t shortest, std::int64_t longest,
                           const std::string& what) {
  const std::int64_t window = model.sliding_window;
  if (window > 0 && longest > window)
    input_error(
        "{}: found sequences of {} tokens, expected at most the model's sliding_window = {}: attention within a window "
        "is computed only where it holds the whole sequence; shorten them",
        what, longest, window);
  const RopeScaling& s = model.rope_scaling;
  const std::int64_t original = s.original_max_position_embeddings;
  if (s.rope_type == "longrope" && s.short_factor != s.long_factor && shortest <= original && longest > original)
    input_error(
        "{}: found sequences of {} to {} tokens, expected at most the model's "
        "rope_scaling.original_max_position_embeddings = {}: longer ones are turned by other angles (longrope), also "
        "what is in a cache; shorten them",
        what, shortest, longest, original);
}

}  // namespace upcycle
