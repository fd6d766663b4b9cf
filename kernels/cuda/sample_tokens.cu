#include <cmath>

#include "core/check.h"
#include "kernels/checks/sampling.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/vector.cuh"

// A block has one row. Probabilities are summed as integers, multiples of 2^-40 of the highest one, so a sum does not
// depend on its order and atomics may add it. A token with less than that is never drawn.
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kBins = 2048, kBinsOfThread = kBins / kThreads;

using Weight = unsigned long long;

struct SamplingShape {
  const float *logits, *temperature, *top_p, *uniform;
  const int* top_k;
  std::int64_t part_stride;  // from one part of a row to the next
  int V, vocabulary;
};

// A number that rises with the logit; NaN has the lowest, -0 that of 0.
__device__ __forceinline__ unsigned key_of(float logit) {
  const unsigned bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  return std::isnan(logit) ? 0u : bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The tokens that may be drawn: those with a higher key, and those with this key up to a last index.
struct Kept {
  unsigned key;
  int last;
  Weight mass;  // of all of them
  __device__ __forceinline__ bool has(float logit, int token) const {
    const unsigned k = key_of(logit);
    return k > key || (k == key && token <= last);
  }
};

struct Row {
  const float* logits;
  std::int64_t part_stride;
  int V, vocabulary;
  float highest, temperature;
  __device__ __forceinline__ float logit(int token) const { return logits[token / V * part_stride + token % V]; }
  // 2^40 exp((logit - highest) / temperature), rounded; 0 for NaN.
  __device__ __forceinline__ Weight weight(float logit) const {
    const float exponent = (logit - highest) / temperature;
    return exponent <= 0 ? static_cast<Weight>(rintf(expf(exponent) * 0x1p40f)) : 0;
  }
};

// The highest key and, of the tokens that have it, the first: larger for a token that is more likely.
__device__ unsigned long long best_of(const Row& row) {
  unsigned long long best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocabulary; i += kThreads) {
    const unsigned long long rank =
        static_cast<unsigned long long>(key_of(row.logit(i))) << 32 | (0xffffffffu - static_cast<unsigned>(i));
    best = rank > best ? rank : best;
  }
  const auto over_warp = [](unsigned long long x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
      const unsigned long long other = __shfl_xor_sync(kFullWarp, x, o);
      x = other > x ? other : x;
    }
    return x;
  };
  GPU_SHARED(unsigned long long, of_warps, [kWarps]);
  best = over_warp(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  return over_warp(of_warps[threadIdx.x % kWarps]);
}

__device__ Weight whole_mass(const Row& row) {
  Weight mass = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocabulary; i += kThreads) mass += row.weight(row.logit(i));
  return block_sum<kThreads>(mass);
}

// The index of the n-th token with this key; the same in all threads.
__device__ int nth_with(const Row& row, unsigned key, unsigned long long n) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  GPU_SHARED(int, found);
  if (threadIdx.x < 32) {
    int token = row.vocabulary;
    for (int first = 0; first < row.vocabulary; first += 32) {
      const bool equal = first + lane < row.vocabulary && key_of(row.logit(first + lane)) == key;
      unsigned lanes = __ballot_sync(kFullWarp, equal);
      const auto here = static_cast<unsigned>(__popc(lanes));
      if (here < n) {
        n -= here;
        continue;
      }
      for (; n > 1; --n) lanes &= lanes - 1;
      token = first + __ffs(lanes) - 1;
      break;
    }
    if (lane == 0) found = token;
  }
  __syncthreads();
  return found;
}

// The fewest of the highest tokens (ties: the lower index first) whose number, or mass, reaches `target`: a radix
// selection over the keys. All tokens with at most the weight `least` can be left out.
__device__ Kept fewest(const Row& row, bool by_mass, Weight target, Weight least) {
  GPU_SHARED(Weight, mass, [kBins]);
  GPU_SHARED(unsigned, count, [kBins]);
  GPU_SHARED(Weight, mass_of_warp, [kWarps]);
  GPU_SHARED(Weight, count_of_warp, [kWarps]);
  GPU_SHARED(int, chosen);
  GPU_SHARED(Weight, mass_above);
  GPU_SHARED(Weight, count_above);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  Weight above_mass = 0, above_count = 0;  // of all with higher keys than those looked at
  unsigned prefix = 0;
  for (int level = 0;; ++level) {
    const int shift = level == 0 ? 21 : level == 1 ? 10 : 0, bits = level == 2 ? 10 : 11;
    __syncthreads();  // the level before has been read
    for (int b = thread; b < kBins; b += kThreads) mass[b] = 0, count[b] = 0;
    if (thread == 0) chosen = -1;
    __syncthreads();
    for (int i = thread; i < row.vocabulary; i += kThreads) {
      const float logit = row.logit(i);
      const unsigned key = key_of(logit);
      if (level > 0 && key >> (shift + bits) != prefix) continue;
      const Weight w = row.weight(logit);
      if (w <= least) continue;
      const unsigned b = key >> shift & ((1u << bits) - 1);
      atomicAdd(&mass[b], w);
      atomicAdd(&count[b], 1u);
    }
    __syncthreads();
    // Thread 0 has the highest bins. Sums over the bins above a thread's own.
    const int top = kBins - 1 - thread * kBinsOfThread;
    Weight own_mass = 0, own_count = 0;
    for (int j = 0; j < kBinsOfThread; ++j) own_mass += mass[top - j], own_count += count[top - j];
    Weight mass_to = own_mass, count_to = own_count;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const Weight m = __shfl_up_sync(kFullWarp, mass_to, o), c = __shfl_up_sync(kFullWarp, count_to, o);
      if (lane >= o) mass_to += m, count_to += c;
    }
    if (lane == 31) mass_of_warp[thread / 32] = mass_to, count_of_warp[thread / 32] = count_to;
    __syncthreads();
    Weight m = above_mass + mass_to - own_mass, c = above_count + count_to - own_count;
    for (int w = 0; w < thread / 32; ++w) m += mass_of_warp[w], c += count_of_warp[w];
    for (int j = 0; j < kBinsOfThread; ++j) {
      const int b = top - j;
      const Weight before = by_mass ? m : c;
      m += mass[b], c += count[b];
      if (before < target && (by_mass ? m : c) >= target) {
        chosen = b;
        mass_above = m - mass[b];
        count_above = c - count[b];
      }
    }
    if (thread == kThreads - 1 && (by_mass ? m : c) < target) mass_above = m;
    __syncthreads();
    if (chosen < 0) return {0, row.vocabulary, mass_above};  // fewer than the target have any weight
    above_mass = mass_above;
    above_count = count_above;
    prefix = prefix << bits | static_cast<unsigned>(chosen);
    const unsigned lowest = prefix << shift;
    const Weight here = mass[chosen], number = count[chosen];
    if (number == 1 || (!by_mass && above_count + number == target)) return {lowest, row.vocabulary, above_mass + here};
    if (level < 2) continue;
    const Weight each = here / number;  // equal logits
    const Weight taken = by_mass ? (target - above_mass + each - 1) / each : target - above_count;
    return {lowest, nth_with(row, lowest, taken), above_mass + taken * each};
  }
}

// The first token, in the order of indices, at which the kept mass exceeds `left`; written by one thread. Each warp has
// a run of tokens.
__device__ void draw(int* token, const Row& row, const Kept& kept, Weight left) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int run = (row.vocabulary + kThreads - 1) / kThreads * 32, begin = min(warp * run, row.vocabulary);
  const int end = min(begin + run, row.vocabulary);
  const auto weight = [&](int i) {
    const float logit = row.logit(i);
    return kept.has(logit, i) ? row.weight(logit) : 0;
  };
  GPU_SHARED(Weight, of_warps, [kWarps]);
  Weight sum = 0;
  for (int i = begin + lane; i < end; i += 32) sum += weight(i);
  sum = warp_sum(sum);
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  Weight before = 0;
  for (int w = 0; w < warp; ++w) before += of_warps[w];
  if (left < before || left >= before + sum) return;
  for (int first = begin; first < end; first += 32) {
    Weight to = first + lane < end ? weight(first + lane) : 0;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const Weight other = __shfl_up_sync(kFullWarp, to, o);
      if (lane >= o) to += other;
    }
    const unsigned exceeds = __ballot_sync(kFullWarp, before + to > left);
    if (exceeds != 0) {
      if (lane == 0) *token = first + __ffs(exceeds) - 1;
      return;
    }
    before += __shfl_sync(kFullWarp, to, 31);
  }
}

__global__ void __launch_bounds__(kThreads) sample(int* tokens, SamplingShape s) {
  const unsigned r = blockIdx.x;
  Row row{s.logits + std::int64_t{r} * s.V, s.part_stride, s.V, s.vocabulary, 0, s.temperature[r]};
  const unsigned long long best = best_of(row);
  const int first = static_cast<int>(0xffffffffu - static_cast<unsigned>(best));
  row.highest = row.logit(first);
  if (row.temperature == 0 || !std::isfinite(row.highest)) {
    if (threadIdx.x == 0) tokens[r] = first;
    return;
  }
  const int top_k = s.top_k[r];
  const float top_p = s.top_p[r];
  Kept kept = top_k > 0 && top_k < s.vocabulary ? fewest(row, false, static_cast<Weight>(top_k), 0)
                                                : Kept{0, s.vocabulary, whole_mass(row)};
  if (top_p < 1) {
    const double needed = ceil(static_cast<double>(top_p) * static_cast<double>(kept.mass));
    const Weight target = min(max(static_cast<Weight>(needed), Weight{1}), kept.mass);
    // The whole vocabulary, at this weight, is less than what the target leaves over.
    kept = fewest(row, true, target, (kept.mass - target) / static_cast<Weight>(s.vocabulary));
  }
  const Weight target = static_cast<Weight>(static_cast<double>(s.uniform[r]) * static_cast<double>(kept.mass));
  draw(tokens + r, row, kept, min(target, kept.mass - 1));
}

}  // namespace

void CudaOps::sample_tokens(Stream& stream, Workspace, const Tensor& tokens, const Tensor& logits,
                            std::int64_t vocabulary, const SamplingRows& rows) {
  const SamplingSizes z = check_sample_tokens(tokens, logits, vocabulary, rows);
  if (z.rows == 0) return;
  UPCYCLE_CHECK(z.rows < INT32_MAX, "sample_tokens: logits {} have more rows than a launch holds", logits.describe());
  const SamplingShape s{logits.as<float>(),       rows.temperature.as<float>(),  rows.top_p.as<float>(),
                        rows.uniform.as<float>(), rows.top_k.as<std::int32_t>(), z.rows * z.V,
                        static_cast<int>(z.V),    static_cast<int>(vocabulary)};
  UPCYCLE_CUDA(gpu::launch({dim3(static_cast<unsigned>(z.rows)), dim3(kThreads), 0, native(stream)}, sample,
                           tokens.as<std::int32_t>(), s));
}

}  // namespace upcycle
