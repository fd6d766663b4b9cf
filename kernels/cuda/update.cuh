#pragma once
#include "core/split_float.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/op_types.h"

// The optimizers' one kernel: state in any form becomes fp32 in registers, a rule updates it element by element, and it
// is stored as it lay.
namespace upcycle::cuda {

__device__ __forceinline__ std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
__device__ __forceinline__ float float_of(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// N 16-bit numbers: one, or eight in one access.
template <int N>
__device__ __forceinline__ void load_bits(std::uint16_t (&to)[N], const std::uint16_t* p) {
  static_assert(N == 1 || N == 8);
  if constexpr (N == 1) {
    to[0] = *p;
  } else {
    const uint4 all = *reinterpret_cast<const uint4*>(p);
    memcpy(to, &all, sizeof(all));
  }
}
template <int N>
__device__ __forceinline__ void store_bits(std::uint16_t* p, const std::uint16_t (&from)[N]) {
  static_assert(N == 1 || N == 8);
  if constexpr (N == 1) {
    *p = from[0];
  } else {
    uint4 all;
    memcpy(&all, from, sizeof(all));
    gpu::store_global16(p, all);
  }
}

// Masters in fp32 beside their rounding.
template <class Param>
struct WholeMasters {
  Param* param;
  float* master;

  template <int N>
  __device__ __forceinline__ void load(float (&w)[N], std::int64_t i) const {
    Access<float, N>::load(w, master + i);
  }
  template <int N>
  __device__ __forceinline__ void store(std::int64_t i, const float (&w)[N]) const {
    Access<float, N>::store(master + i, w);
    Access<Param, N>::store(param + i, w);
  }
};

// Their rounding, low halves, and a bit for ties. One thread has the eight elements of a byte of bits.
struct SplitMasters {
  __nv_bfloat16* param;
  std::uint16_t* low;
  std::uint8_t* ties;

  template <int N>
  __device__ __forceinline__ void load(float (&w)[N], std::int64_t i) const {
    std::uint16_t high[N], rest[N];
    load_bits<N>(high, reinterpret_cast<const std::uint16_t*>(param) + i);
    load_bits<N>(rest, low + i);
    const unsigned raised = ties[i / 8] >> (i % 8);
#pragma unroll
    for (int j = 0; j < N; ++j) w[j] = float_of(join_halves(high[j], rest[j], (raised >> j & 1u) != 0));
  }
  template <int N>
  __device__ __forceinline__ void store(std::int64_t i, const float (&w)[N]) const {
    std::uint16_t rest[N];
    unsigned raised = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const std::uint32_t bits = bits_of(w[j]);
      rest[j] = static_cast<std::uint16_t>(low_half(bits));
      raised |= (raised_tie(bits) ? 1u : 0u) << j;
    }
    Access<__nv_bfloat16, N>::store(param + i, w);
    store_bits<N>(low + i, rest);
    const unsigned others = N == 8 ? 0u : ties[i / 8] & ~(1u << (i % 8));
    ties[i / 8] = static_cast<std::uint8_t>(others | raised << (i % 8));
  }
};

struct NoMoment {
  __device__ __forceinline__ bool adjacent(std::int64_t, int) const { return true; }
  template <int N>
  __device__ __forceinline__ void load(float (&x)[N], std::int64_t) const {
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = 0;
  }
  template <int N>
  __device__ __forceinline__ void store(std::int64_t, const float (&)[N]) const {}
};

struct WholeMoment {
  float* data;

  __device__ __forceinline__ bool adjacent(std::int64_t, int) const { return true; }
  template <int N>
  __device__ __forceinline__ void load(float (&x)[N], std::int64_t i) const {
    Access<float, N>::load(x, data + i);
  }
  template <int N>
  __device__ __forceinline__ void store(std::int64_t i, const float (&x)[N]) const {
    Access<float, N>::store(data + i, x);
  }
};

// A moment in bf16, rounded by draws (core/stochastic_rounding.h).
struct RoundedMoment {
  __nv_bfloat16* data;
  DrawStream stream;
  std::int64_t first, width, pitch;  // MomentRounding's

  // Whether n elements from i on have numbers one after another.
  __device__ __forceinline__ bool adjacent(std::int64_t i, int n) const {
    return width == pitch || i % width + n <= width;
  }
  template <int N>
  __device__ __forceinline__ void load(float (&x)[N], std::int64_t i) const {
    Access<__nv_bfloat16, N>::load(x, data + i);
  }
  template <int N>
  __device__ __forceinline__ void store(std::int64_t i, const float (&x)[N]) const {
    const auto element = static_cast<std::uint64_t>(width == pitch ? first + i : first + i / width * pitch + i % width);
    std::uint32_t draws[N];
    draw<N>(draws, element);
    std::uint16_t bits[N];
#pragma unroll
    for (int j = 0; j < N; ++j) bits[j] = round_by_draw(bits_of(x[j]), draws[j]);
    store_bits<N>(reinterpret_cast<std::uint16_t*>(data) + i, bits);
  }

 private:
  // Of N adjacent elements: eight lie in one block of draws or in two.
  template <int N>
  __device__ __forceinline__ void draw(std::uint32_t (&draws)[N], std::uint64_t element) const {
    std::uint32_t block[4];
    draw_block(block, stream, element / 8);
    if constexpr (N == 1) {
      draws[0] = draw_of(block, element);
    } else {
      std::uint32_t words[9] = {block[0], block[1], block[2], block[3]};
      if (element % 8 != 0) {
        draw_block(block, stream, element / 8 + 1);
#pragma unroll
        for (int j = 0; j < 4; ++j) words[4 + j] = block[j];
      }
      // Moved down by element % 8 draws of 16 bits, with indices that are known when it is compiled.
#pragma unroll
      for (int j = 0; j < 6; ++j) words[j] = (element & 4) != 0 ? words[j + 2] : words[j];
#pragma unroll
      for (int j = 0; j < 5; ++j) words[j] = (element & 2) != 0 ? words[j + 1] : words[j];
#pragma unroll
      for (int j = 0; j < 4; ++j) words[j] = (element & 1) != 0 ? words[j] >> 16 | words[j + 1] << 16 : words[j];
#pragma unroll
      for (int j = 0; j < N; ++j) draws[j] = words[j / 2] >> (16 * (j % 2)) & 0xffffu;
    }
  }
};

template <class Rule, class Masters, class Moment1, class Moment2, int N>
__device__ __forceinline__ void update_elements(const Rule& rule, const Masters& masters, const Moment1& m,
                                                const Moment2& v, const float* grad, float scale, std::int64_t i) {
  float w[N], first[N], second[N], g[N];
  masters.template load<N>(w, i);
  m.template load<N>(first, i);
  v.template load<N>(second, i);
  Access<float, N>::load(g, grad + i);
#pragma unroll
  for (int j = 0; j < N; ++j) rule(w[j], first[j], second[j], g[j], scale);
  m.template store<N>(i, first);
  v.template store<N>(i, second);
  masters.template store<N>(i, w);
}

// A thread has N elements: in 16-byte accesses if the state is aligned, else, and behind the last whole group, one by
// one.
template <class Rule, class Masters, class Moment1, class Moment2, int N, bool kAligned>
__global__ void update_kernel(RowGrid grid, Rule rule, Masters masters, Moment1 m, Moment2 v, const float* grad,
                              const float* scale, std::int64_t n) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t begin = at.group * N, end = begin + N < n ? begin + N : n;
  const float by = *scale;
  if (kAligned && begin + N <= n && m.adjacent(begin, N)) {
    update_elements<Rule, Masters, Moment1, Moment2, kAligned ? N : 1>(rule, masters, m, v, grad, by, begin);
  } else {
#pragma unroll 1
    for (std::int64_t i = begin; i < end; ++i)
      update_elements<Rule, Masters, Moment1, Moment2, 1>(rule, masters, m, v, grad, by, i);
  }
}

// Launches the kernel for the form that the state has. `moments`: the rule's.
template <int kMoments, class Rule>
void launch_update(const char* op, Stream& stream, const UpdateTensors& t, const Tensor& scale, const Rule& rule,
                   std::int64_t n) {
  constexpr int kGroup = 8;
  bool aligned = true;
  for (const Tensor* x : {&t.param, &t.master, &t.m, &t.v, &t.grad})
    aligned = aligned && reinterpret_cast<std::uintptr_t>(x->data) % 16 == 0;
  const auto with = [&](const auto& masters, const auto& m, const auto& v, auto split) {
    using Masters = std::decay_t<decltype(masters)>;
    using Moment1 = std::decay_t<decltype(m)>;
    using Moment2 = std::decay_t<decltype(v)>;
    constexpr int kSingle = decltype(split)::value ? kGroup : 1;  // two threads may not write one byte of bits
    const std::int64_t per = aligned ? kGroup : kSingle;
    launch_rows(op, stream, 1, (n + per - 1) / per,
                aligned ? update_kernel<Rule, Masters, Moment1, Moment2, kGroup, true>
                        : update_kernel<Rule, Masters, Moment1, Moment2, kSingle, false>,
                rule, masters, m, v, t.grad.as<float>(), scale.as<float>(), n);
  };
  const auto with_moments = [&](const auto& masters, auto split) {
    const MomentRounding& r = t.rounding;
    const auto rounded = [&](const Tensor& x, const DrawStream& draws) {
      return RoundedMoment{static_cast<__nv_bfloat16*>(x.data), draws, r.first, r.width, r.pitch};
    };
    if constexpr (kMoments == 0) {
      with(masters, NoMoment{}, NoMoment{}, split);
    } else if constexpr (kMoments == 1) {
      if (t.m.dtype == DType::F32)
        with(masters, WholeMoment{t.m.as<float>()}, NoMoment{}, split);
      else
        with(masters, rounded(t.m, r.m), NoMoment{}, split);
    } else {
      if (t.m.dtype == DType::F32)
        with(masters, WholeMoment{t.m.as<float>()}, WholeMoment{t.v.as<float>()}, split);
      else
        with(masters, rounded(t.m, r.m), rounded(t.v, r.v), split);
    }
  };
  auto* const param = static_cast<__nv_bfloat16*>(t.param.data);
  if (t.master.dtype == DType::BF16)
    with_moments(
        SplitMasters{param, static_cast<std::uint16_t*>(t.master.data), static_cast<std::uint8_t*>(t.ties.data)},
        std::true_type{});
  else if (t.param.dtype == DType::BF16)
    with_moments(WholeMasters<__nv_bfloat16>{param, t.master.as<float>()}, std::false_type{});
  else
    with_moments(WholeMasters<float>{t.param.as<float>(), t.master.as<float>()}, std::false_type{});
}

}  // namespace upcycle::cuda
