#pragma once
#include <vector>

#include "core/arena.h"
#include "parallel/model/attention.h"

namespace upcycle {

// The keys and values of one sequence, for generation: rows [0, length) of every layer are filled.
struct KvCache {
  Arena arena{"key/value cache"};
  std::vector<Tensor> k, v;  // per layer: (capacity, K_local D)
  Tensor offsets;            // i32 (2): 0, and the length including the rows being added
  std::int64_t length = 0, capacity = 0;
};

KvCache make_kv_cache(Device& device, const Sizes& sizes, DType dtype, std::int64_t capacity);

// The cache with room for `rows` more behind what it holds, as attention reads and fills it: one view per layer. The
// caller then adds them to `length`. Throws Error where they do not fit.
std::vector<PastKeysValues> extended_by(const KvCache& cache, std::int64_t rows);

}  // namespace upcycle
