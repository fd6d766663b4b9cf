#pragma once
#include <cstddef>
#include <cstdint>

// Largest sizes that the CUDA kernels support. Plain C++, so that a run that exceeds them is refused at its start.
namespace upcycle::cuda {

constexpr std::int64_t kMostExperts = 512;  // each lane of a warp holds up to 16 of a token's router columns
constexpr std::int64_t kLargestHead = 256;  // columns of an attention head: larger tiles do not fit shared memory

// RMSNorm's backward sums a row of fp32 in a block's 227 KiB of shared memory, minus its static variables.
constexpr std::size_t kNormSharedBytes = 226 * 1024;
constexpr auto kLargestHidden = static_cast<std::int64_t>(kNormSharedBytes / sizeof(float));

}  // namespace upcycle::cuda
