#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/device.h"
#include "kernels/check.h"
#include "kernels/checks/sampling.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile_matmul.h"

// Rows are independent; a thread takes whole rows. Probabilities are summed as integers, multiples of 2^-40 of the
// highest one, so a sum does not depend on its order. A token with less than that is never drawn.
namespace upcycle {
namespace {

constexpr std::int64_t kBlock = 1024;  // logits whose weights are computed at once
constexpr int kBins = 2048;
// Logits, of which one at a temperature takes as long as 16 others; below, waking threads costs more than the work.
constexpr std::int64_t kParallelFrom = 1 << 20;

using Weight = std::uint64_t;
struct Bin {
  Weight mass;
  std::uint64_t count;
};
struct Scratch {
  Bin bins[kBins];
  Weight weights[kBlock];
  std::uint32_t counts[kBlock];  // 0 or 1
  std::int32_t found[kBlock];
};

// One row of logits, in its parts.
struct Logits {
  const float* data;
  std::int64_t part_stride, V, vocabulary;
  // f(index of the first, logits, how many) over runs of at most kBlock in order, until it returns true.
  template <class F>
  void in_blocks(const F& f) const {
    for (std::int64_t begin = 0; begin < vocabulary; begin += V) {
      const float* part = data + begin / V * part_stride;
      const std::int64_t size = std::min(V, vocabulary - begin);
      for (std::int64_t i = 0; i < size; i += kBlock)
        if (f(begin + i, part + i, std::min(kBlock, size - i))) return;
    }
  }
};

float highest_of(const float* x, std::int64_t n) {
  Vec most = -std::numeric_limits<float>::infinity() - Vec{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load_vec(x + i);
    most = v > most ? v : most;  // passes over NaN
  }
  float highest = most[0];
  for (int lane = 1; lane < kLanes; ++lane) highest = std::max(highest, most[lane]);
  for (; i < n; ++i) highest = x[i] > highest ? x[i] : highest;
  return highest;
}

struct Highest {
  float logit;
  std::int64_t token;  // the first that has it
};
// NaN ranks below every number. A row of nothing else gives token 0.
Highest highest_of(const Logits& logits) {
  Highest h{-std::numeric_limits<float>::infinity(), -1};
  logits.in_blocks([&](std::int64_t first, const float* x, std::int64_t n) {
    const float here = highest_of(x, n);
    if (here > h.logit || h.token < 0) {
      const float* at = std::find(x, x + n, here);
      if (at != x + n) h = {here, first + (at - x)};
    }
    return false;
  });
  return {h.logit, std::max<std::int64_t>(h.token, 0)};
}

// A number that rises with the logit; NaN has the lowest, -0 that of 0.
std::uint32_t key_of(float logit) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(logit + 0.0f);
  const std::uint32_t rising = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return logit == logit ? rising : 0;
}

// weights[i] = 2^40 exp((x[i] - highest) / temperature), rounded; 0 for NaN.
[[gnu::noinline]] void weigh(Weight* weights, const float* x, std::int64_t n, float highest, float temperature) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float exponent = (x[i] - highest) / temperature;
    const float weight = exponent <= 0 ? fast_exp(exponent) : 0.0f;
    // At 2^52 a double's lowest bit is 1: adding it rounds.
    const double shifted = static_cast<double>(weight) * 0x1p40 + 0x1p52;
    weights[i] = std::bit_cast<Weight>(shifted) - std::bit_cast<Weight>(0x1p52);
  }
}

// The tokens that may be drawn: those with a higher key, and those with this key up to a last index.
struct Kept {
  std::uint32_t key = 0;
  std::int64_t last = 0;
  Weight mass = 0;  // of all of them
  bool operator()(float logit, std::int64_t token) const {
    const std::uint32_t k = key_of(logit);
    return k > key || (k == key && token <= last);
  }
};

struct Row {
  Logits logits;
  float highest, temperature;
  Scratch& scratch;

  // f(index of the first, logits, weights, how many), until it returns true.
  template <class F>
  void weighted(const F& f) const {
    logits.in_blocks([&](std::int64_t first, const float* x, std::int64_t n) {
      weigh(scratch.weights, x, n, highest, temperature);
      return f(first, x, scratch.weights, n);
    });
  }
  Kept all() const {
    Kept kept{0, logits.vocabulary, 0};
    weighted([&](std::int64_t, const float*, const Weight* w, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) kept.mass += w[i];
      return false;
    });
    return kept;
  }
  // The fewest of the highest (ties: the lower index first) whose number, or mass, reaches `target`: a radix selection
  // over the keys. All tokens with at most the weight `least` can be left out.
  template <bool kByMass>
  Kept fewest(Weight target, Weight least = 0) const {
    Bin above{0, 0};                    // all with higher keys than those looked at
    std::uint32_t known = 0, mask = 0;  // the upper bits of the keys looked at, and which bits these are
    for (const auto& [shift, bits] : {std::pair{21, 11}, std::pair{10, 11}, std::pair{0, 10}}) {
      std::fill_n(scratch.bins, kBins, Bin{});
      weighted([&, shift = shift, bits = bits](std::int64_t, const float* x, const Weight* w, std::int64_t n) {
      // First which ones count, without branches, which would be foretold wrongly.
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) scratch.counts[i] = w[i] > least && (key_of(x[i]) & mask) == known ? 1 : 0;
        std::int64_t found = 0;
        for (std::int64_t i = 0; i < n; ++i) {
          scratch.found[found] = static_cast<std::int32_t>(i);
          found += scratch.counts[i];
        }
        for (std::int64_t j = 0; j < found; ++j) {
          const std::int32_t i = scratch.found[j];
          Bin& bin = scratch.bins[key_of(x[i]) >> shift & ((1u << bits) - 1)];
          bin.mass += w[i];
          bin.count += 1;
        }
        return false;
      });
      int b = (1 << bits) - 1;
      for (; b >= 0; --b) {
        const Bin& bin = scratch.bins[b];
        if (kByMass ? above.mass + bin.mass >= target : above.count + bin.count >= target) break;
        above.mass += bin.mass;
        above.count += bin.count;
      }
      if (b < 0) return {0, logits.vocabulary, above.mass};  // fewer than the target have any weight
      const Bin& bin = scratch.bins[b];
      known |= static_cast<std::uint32_t>(b) << shift;
      mask |= ((1u << bits) - 1) << shift;
      const bool whole = bin.count == 1 || (!kByMass && above.count + bin.count == target);
      if (whole) return {known, logits.vocabulary, above.mass + bin.mass};
      if (shift > 0) continue;
      const Weight each = bin.mass / bin.count;  // equal logits
      const std::uint64_t taken = kByMass ? (target - above.mass + each - 1) / each : target - above.count;
      return {known, nth_with(known, taken), above.mass + taken * each};
    }
    __builtin_unreachable();
  }
  // The index of the n-th token with this key.
  std::int64_t nth_with(std::uint32_t key, std::uint64_t n) const {
    std::int64_t token = logits.vocabulary;
    logits.in_blocks([&](std::int64_t first, const float* x, std::int64_t size) {
      for (std::int64_t i = 0; i < size; ++i) {
        if (key_of(x[i]) == key && --n == 0) return token = first + i, true;
      }
      return false;
    });
    return token;
  }
  // The first token, in the order of indices, at which the kept mass exceeds uniform times its total.
  std::int64_t draw(const Kept& kept, float uniform) const {
    const double total = static_cast<double>(kept.mass);
    Weight left = std::min(static_cast<Weight>(static_cast<double>(uniform) * total), kept.mass - 1);
    std::int64_t token = 0;
    weighted([&](std::int64_t first, const float* x, const Weight* w, std::int64_t n) {
      Weight sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < n; ++i) sum += kept(x[i], first + i) ? w[i] : 0;
      if (sum <= left) return left -= sum, false;
      std::int64_t i = 0;
      for (; !kept(x[i], first + i) || w[i] <= left; ++i)
        if (kept(x[i], first + i)) left -= w[i];
      return token = first + i, true;
    });
    return token;
  }
};

std::int64_t sample(const Logits& logits, float temperature, std::int64_t top_k, float top_p, float uniform,
                    Scratch& scratch) {
  const Highest highest = highest_of(logits);
  if (temperature == 0 || !std::isfinite(highest.logit)) return highest.token;
  const Row row{logits, highest.logit, temperature, scratch};
  Kept kept = top_k > 0 && top_k < logits.vocabulary ? row.fewest<false>(static_cast<Weight>(top_k)) : row.all();
  if (top_p < 1) {
    const double needed = std::ceil(static_cast<double>(top_p) * static_cast<double>(kept.mass));
    const Weight target = std::clamp<Weight>(static_cast<Weight>(needed), 1, kept.mass);
    // The whole vocabulary, at this weight, is less than what the target leaves over.
    kept = row.fewest<true>(target, (kept.mass - target) / static_cast<Weight>(logits.vocabulary));
  }
  return row.draw(kept, uniform);
}

std::size_t sampling_workspace() { return static_cast<std::size_t>(omp_get_max_threads()) * sizeof(Scratch); }

}  // namespace

std::size_t CpuOps::sample_tokens_workspace(const OpLimits& limits) {
  return limits.vocabulary == 0 ? 0 : sampling_workspace();
}

void CpuOps::sample_tokens(Stream&, Workspace workspace, const Tensor& tokens, const Tensor& logits,
                           std::int64_t vocabulary, const SamplingRows& rows) {
  const SamplingSizes z = check_sample_tokens(tokens, logits, vocabulary, rows);
  check_workspace("sample_tokens", workspace, sampling_workspace());
  const float *temperature = rows.temperature.as<float>(), *top_p = rows.top_p.as<float>();
  const float* uniform = rows.uniform.as<float>();
  const std::int32_t* top_k = rows.top_k.as<std::int32_t>();
  std::int64_t work = 0;
  for (std::int64_t r = 0; r < z.rows; ++r) {
    work += temperature[r] == 0 ? vocabulary : 16 * vocabulary;
    UPCYCLE_CHECK(
        temperature[r] >= 0 && top_k[r] >= 0 && top_p[r] > 0 && top_p[r] <= 1 && uniform[r] >= 0 && uniform[r] < 1,
        "sample_tokens: row {} has temperature {}, top_k {}, top_p {}, uniform {}", r, temperature[r], top_k[r],
        top_p[r], uniform[r]);
  }
  std::int32_t* to = tokens.as<std::int32_t>();
  const float* data = logits.as<float>();
  Scratch* scratch = static_cast<Scratch*>(workspace.data);
#pragma omp parallel for schedule(dynamic) if (z.rows > 1 && work >= kParallelFrom)
  for (std::int64_t r = 0; r < z.rows; ++r) {
    const Logits of_row{data + r * z.V, z.rows * z.V, z.V, vocabulary};
    to[r] = static_cast<std::int32_t>(
        sample(of_row, temperature[r], top_k[r], top_p[r], uniform[r], scratch[omp_get_thread_num()]));
  }
}

}  // namespace upcycle
