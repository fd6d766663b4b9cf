#include "kernels/cuda/token_sort.cuh"

#include <bit>

#include "core/check.h"
#include "kernels/check.h"
#include "kernels/cuda/vector.cuh"

// A radix sort, from the lowest digit of the table row to the highest: count each tile's digits, turn the counts into
// first places by a prefix sum over digits, then tiles, and place each index. The result depends only on the input
// order, so the sort is stable and deterministic; nothing is quadratic if one token fills the batch.
namespace upcycle::cuda {
namespace {

using scratch::kDigitBits, scratch::kDigits;

constexpr int kThreads = kDigits;  // of the counting and placing kernels: one thread per digit when summing
constexpr int kWarps = kThreads / 32;
constexpr std::int64_t kTile = scratch::kSortTile;
constexpr int kScanThreads = 1024;

struct Keys {
  const std::int32_t* tokens;
  const std::int32_t* indices;  // null: 0, 1, 2, ...
  std::int64_t T, V, vocab_begin;
  int shift;

  __device__ __forceinline__ std::int32_t index(std::int64_t i) const {
    return indices != nullptr ? indices[i] : static_cast<std::int32_t>(i);
  }
  __device__ __forceinline__ unsigned digit(std::int32_t index) const {
    const std::int64_t row = tokens[index] - vocab_begin;
    return static_cast<unsigned>((row >= 0 && row < V ? row : V) >> shift) & (kDigits - 1);
  }
};

// places (kDigits, tiles): the number of the tile's keys with that digit.
__global__ void count_digits(std::int32_t* places, Keys keys) {
  GPU_SHARED(int, count, [kDigits]);
  count[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t begin = blockIdx.x * kTile, end = min(begin + kTile, keys.T);
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) atomicAdd(&count[keys.digit(keys.index(i))], 1);
  __syncthreads();
  places[std::int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// Exclusive prefix sum. One block; each thread has a contiguous range.
__global__ void scan(std::int32_t* places, std::int64_t n) {
  GPU_SHARED(int, warps, [kScanThreads / 32]);
  const std::int64_t begin = n * threadIdx.x / kScanThreads, end = n * (threadIdx.x + 1) / kScanThreads;
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int own = 0;
  for (std::int64_t i = begin; i < end; ++i) own += places[i];
  int through = own;  // the sum of this warp's runs up to this one
  for (unsigned o = 1; o < 32; o <<= 1) {
    const int below = __shfl_up_sync(kFullWarp, through, o);
    if (lane >= o) through += below;
  }
  if (lane == 31) warps[warp] = through;
  __syncthreads();
  int before = through - own;
  for (unsigned w = 0; w < warp; ++w) before += warps[w];
  for (std::int64_t i = begin; i < end; ++i) {
    const int count = places[i];
    places[i] = before;
    before += count;
  }
}

// Mask of the lanes with the same digit as this one; lanes without a key pass kDigits.
__device__ __forceinline__ unsigned same_digit(unsigned digit) {
  unsigned same = kFullWarp;
#pragma unroll
  for (int bit = 0; bit <= kDigitBits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned with = __ballot_sync(kFullWarp, set);
    same &= set ? with : ~with;
  }
  return same;
}

__global__ void place_indices(std::int32_t* sorted, const std::int32_t* places, Keys keys) {
  GPU_SHARED(int, first, [kWarps][kDigits]);  // counts, then the first place, of a warp's keys with a digit
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int next = places[std::int64_t{threadIdx.x} * gridDim.x + blockIdx.x];  // of this thread's digit
  for (std::int64_t begin = blockIdx.x * kTile; begin < min((blockIdx.x + 1) * kTile, keys.T); begin += kThreads) {
    for (int w = 0; w < kWarps; ++w) first[w][threadIdx.x] = 0;
    __syncthreads();
    const std::int64_t i = begin + threadIdx.x;
    const bool held = i < keys.T;
    const std::int32_t index = held ? keys.index(i) : 0;
    const unsigned digit = held ? keys.digit(index) : unsigned{kDigits};
    const unsigned same = same_digit(digit), lower = same & ((1u << lane) - 1);
    if (held && lower == 0) first[warp][digit] = __popc(same);
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) {
      const int count = first[w][threadIdx.x];
      first[w][threadIdx.x] = next;
      next += count;
    }
    __syncthreads();
    if (held) sorted[first[warp][digit] + __popc(lower)] = index;
    __syncthreads();  // before the next round clears the counts
  }
}

}  // namespace

const std::int32_t* sort_tokens(Stream& stream, Workspace workspace, const std::int32_t* tokens, std::int64_t T,
                                std::int64_t V, std::int64_t vocab_begin) {
  check_workspace("embedding_backward", workspace, scratch::token_sort(T));
  UPCYCLE_CHECK(T < std::int64_t{1} << 31, "embedding_backward: {} tokens", T);
  auto* const even = static_cast<std::int32_t*>(workspace.data);
  std::int32_t *const odd = even + T, *const places = odd + T;
  const std::int64_t tiles = scratch::sort_tiles(T);
  const dim3 grid(static_cast<unsigned>(tiles));
  const int bits = std::bit_width(static_cast<std::uint64_t>(V));  // V itself: tokens of no row
  Keys keys{tokens, nullptr, T, V, vocab_begin, 0};
  for (int pass = 0; keys.shift < bits; ++pass, keys.shift += kDigitBits) {
    std::int32_t* const sorted = pass % 2 == 0 ? even : odd;
    UPCYCLE_CUDA(gpu::launch({grid, dim3(kThreads), 0, native(stream)}, count_digits, places, keys));
    UPCYCLE_CUDA(gpu::launch({dim3(1), dim3(kScanThreads), 0, native(stream)}, scan, places, kDigits * tiles));
    UPCYCLE_CUDA(gpu::launch({grid, dim3(kThreads), 0, native(stream)}, place_indices, sorted, places, keys));
    keys.indices = sorted;
  }
  return keys.indices;
}

}  // namespace upcycle::cuda
