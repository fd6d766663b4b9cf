#pragma once
#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/xent_scratch.h"

// How much scratch the CUDA ops take, in plain C++: a plan for GPUs is made by any build. The constants are those that
// the kernels cut their work by.
namespace upcycle::cuda {

// What cuBLAS's documentation recommends for Hopper and later.
inline constexpr std::size_t kGemmWorkspaceBytes = std::size_t{32} << 20;

namespace scratch {

constexpr std::int64_t kSumSquaresBlocks = 1024;  // at most
constexpr std::int64_t kRouterStatsBlocks = 256;  // at most
constexpr std::int64_t kSortParts = 1024;         // at most
constexpr std::int64_t kNormParts = 256;          // partial sums of dweight, each over a range of rows
constexpr std::int64_t kColumnParts = 64;         // at most: partial sums of columns, each over a range of rows
constexpr XentCut kXentCut{2048, 4096, 64, 256, kGemmWorkspaceBytes};  // rows of logits begin at whole vectors

constexpr std::size_t norm_parts(std::int64_t H) { return static_cast<std::size_t>(kNormParts * H) * sizeof(float); }
constexpr std::size_t column_parts(std::int64_t columns) {
  return static_cast<std::size_t>(kColumnParts * columns) * sizeof(float);
}
constexpr std::size_t attention_delta(std::int64_t T, std::int64_t N) {
  return static_cast<std::size_t>(T * N) * sizeof(float);
}

// The radix sort of tokens, a digit of 8 bits at a time.
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr std::int64_t kSortTile = 4 * kDigits;  // keys that a block counts
constexpr std::int64_t sort_tiles(std::int64_t T) { return (T + kSortTile - 1) / kSortTile; }
constexpr std::size_t token_sort(std::int64_t T) {
  return static_cast<std::size_t>(2 * T + kDigits * sort_tiles(T)) * sizeof(std::int32_t);
}

// Ranges of a sequence's keys that different blocks of paged_attention take.
constexpr int kRangeKeys = 256, kMostRanges = 16;
UPCYCLE_HOST_DEVICE constexpr int keys_of_range(int length) {
  const int least = (length + kMostRanges - 1) / kMostRanges;
  return least <= kRangeKeys ? kRangeKeys : (least + 63) / 64 * 64;
}
UPCYCLE_HOST_DEVICE constexpr int ranges_of(int length) {
  return (length + keys_of_range(length) - 1) / keys_of_range(length);
}
constexpr std::size_t paged_attention(std::int64_t sequences, std::int64_t N, std::int64_t D, std::int64_t keys) {
  return static_cast<std::size_t>(sequences * N * ranges_of(static_cast<int>(keys)) * (D + 2)) * sizeof(float);
}

// Of one call within the limits, for each op that has scratch.
#define UPCYCLE_OP(name, ...)
#define UPCYCLE_OP_WITH_SCRATCH(name, ...) std::size_t name##_bytes(const OpLimits& limits);
#include "kernels/ops.inc"

std::size_t most_bytes(const OpLimits& limits);  // of them all

}  // namespace scratch
}  // namespace upcycle::cuda
