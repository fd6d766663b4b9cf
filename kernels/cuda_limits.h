#pragma once
#include <cstddef>
#include <cstdint>

// Sizes that the CUDA kernels can not exceed. Plain C++: a run on a GPU that asks for more is refused at its start.
namespace upcycle::cuda {

constexpr std::int64_t kMostExperts = 512;  // a lane of a warp holds up to 16 of a token's router columns
constexpr std::int64_t kLargestHead = 256;  // columns of an attention head: tiles of more do not fit shared memory

// RMSNorm's backward sums a row of fp32 in a block's 227 KiB of shared memory, less its static ones.
constexpr std::size_t kNormSharedBytes = 226 * 1024;
constexpr auto kLargestHidden = static_cast<std::int64_t>(kNormSharedBytes / sizeof(float));

}  // namespace upcycle::cuda
