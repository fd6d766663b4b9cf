#pragma once
#include <algorithm>
#include <cstring>

#include "core/split_float.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

// How the CPU's optimizers walk over their state. A rule is a function of fp32 arrays,
//   rule(Param* param, float* master, float* m, float* v, const float* grad, std::int64_t n),
// called for one block after another. State in another form is loaded into fp32 arrays before and stored after, so the
// form can not change what is computed.
namespace upcycle {

constexpr std::int64_t kUpdateBlock = 1 << 12;  // elements; see elementwise.cpp for why threads take whole blocks
constexpr std::int64_t kUpdateParallelFrom = 1 << 14;
constexpr std::int64_t kLoadedBlock = 1 << 10;  // fp32 arrays of so many elements stay in the nearest cache

// From a param's bits, low halves and ties to masters. `ties`: a bit for each element, the first one's is the lowest.
inline void join_masters(float* master, const bf16* param, const bf16* low, const std::uint8_t* ties, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) master[i] = std::bit_cast<float>(join_halves(param[i].bits, low[i].bits, false));
  for (std::int64_t i = 0; i < n; i += 8)  // one element in 2^17, where bits are random
    for (unsigned raised = ties[i / 8]; raised != 0; raised &= raised - 1) {
      const std::int64_t e = i + std::countr_zero(raised);
      if (e < n) master[e] = std::bit_cast<float>(join_halves(param[e].bits, low[e].bits, true));
    }
}

// And back; the param is the rule's to write.
inline void split_masters(const float* master, bf16* low, std::uint8_t* ties, std::int64_t n) {
  std::uint32_t any = 0;
#pragma omp simd reduction(| : any)
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(master[i]);
    low[i].bits = static_cast<std::uint16_t>(low_half(bits));
    any |= raised_tie(bits) ? 1u : 0u;
  }
  std::fill_n(ties, (n + 7) / 8, std::uint8_t{0});
  for (std::int64_t i = 0; any != 0 && i < n; ++i)
    if (raised_tie(std::bit_cast<std::uint32_t>(master[i]))) ties[i / 8] |= static_cast<std::uint8_t>(1u << (i % 8));
}

// The draws of n elements with numbers one after another.
inline void draw(std::uint16_t* draws, const DrawStream& stream, std::uint64_t element, std::int64_t n) {
  for (std::int64_t i = 0; i < n;) {
    std::uint32_t words[4];
    draw_block(words, stream, element / 8);
    const std::int64_t end = std::min(n, i + 8 - static_cast<std::int64_t>(element % 8));
    if (end - i == 8) {
      std::memcpy(draws + i, words, sizeof words);  // in the order of draw_of
      i += 8, element += 8;
    }
    for (; i < end; ++i, ++element) draws[i] = static_cast<std::uint16_t>(draw_of(words, element));
  }
}

// Stores elements [begin, begin + n) of a moment, a loaded block at most, rounded by their draws.
inline void store_rounded(bf16* to, const float* values, const MomentRounding& r, const DrawStream& stream,
                          std::int64_t begin, std::int64_t n) {
  alignas(64) std::uint16_t draws[kLoadedBlock];
  for (std::int64_t i = 0, end = 0; i < n; i = end) {
    const std::int64_t column = (begin + i) % r.width;
    end = std::min(n, i + r.width - column);
    draw(draws + i, stream, static_cast<std::uint64_t>(r.first + (begin + i) / r.width * r.pitch + column), end - i);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i].bits = round_by_draw(std::bit_cast<std::uint32_t>(values[i]), draws[i]);
}

// A moment as fp32: where it lies, or widened into `loaded`.
inline float* load_moment(const Tensor& t, std::int64_t begin, std::int64_t n, float* loaded) {
  if (t.data == nullptr) return nullptr;
  if (t.dtype == DType::F32) return t.as<float>() + begin;
  const bf16* const from = t.as<bf16>() + begin;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) loaded[i] = load(from + i);
  return loaded;
}

template <class Param, class Rule>
void update_loaded(const UpdateTensors& t, std::int64_t begin, std::int64_t n, const Rule& rule) {
  alignas(64) float masters[kLoadedBlock], first[kLoadedBlock], second[kLoadedBlock];
  const bool split = t.master.dtype == DType::BF16;
  Param* const param = t.param.as<Param>() + begin;
  float* const master = split ? masters : t.master.as<float>() + begin;
  float* const m = load_moment(t.m, begin, n, first);
  float* const v = load_moment(t.v, begin, n, second);
  auto* const ties = split ? static_cast<std::uint8_t*>(t.ties.data) + begin / 8 : nullptr;
  if (split) join_masters(master, t.param.as<bf16>() + begin, t.master.as<bf16>() + begin, ties, n);
  rule(param, master, m, v, t.grad.as<float>() + begin, n);
  if (split) split_masters(master, t.master.as<bf16>() + begin, ties, n);
  if (m == first) store_rounded(t.m.as<bf16>() + begin, m, t.rounding, t.rounding.m, begin, n);
  if (v == second) store_rounded(t.v.as<bf16>() + begin, v, t.rounding, t.rounding.v, begin, n);
}

template <class Param, class Rule>
void update_blocks_as(const UpdateTensors& t, const Rule& rule) {
  const std::int64_t n = t.master.size();
  const bool plain = t.master.dtype == DType::F32 && (t.m.data == nullptr || t.m.dtype == DType::F32);
#pragma omp parallel for schedule(static) if (n >= kUpdateParallelFrom)
  for (std::int64_t block = 0; block < n; block += kUpdateBlock) {
    const std::int64_t end = std::min(n, block + kUpdateBlock), step = plain ? kUpdateBlock : kLoadedBlock;
    for (std::int64_t begin = block; begin < end; begin += step) {
      const std::int64_t count = std::min(step, end - begin);
      if (plain)
        rule(t.param.as<Param>() + begin, t.master.as<float>() + begin, load_moment(t.m, begin, count, nullptr),
             load_moment(t.v, begin, count, nullptr), t.grad.as<float>() + begin, count);
      else
        update_loaded<Param>(t, begin, count, rule);
    }
  }
}

template <class Rule>
void update_blocks(const UpdateTensors& t, const Rule& rule) {
  if (t.param.dtype == DType::BF16)
    update_blocks_as<bf16>(t, rule);
  else
    update_blocks_as<float>(t, rule);
}

}  // namespace upcycle
