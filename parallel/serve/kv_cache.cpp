#include "parallel/serve/kv_cache.h"

#include "core/check.h"

namespace upcycle {

KvCache make_kv_cache(Device& device, const Sizes& s, DType dtype, std::int64_t capacity) {
  KvCache c;
  c.capacity = capacity;
  const auto layout = [&] {
    c.k.clear();
    c.v.clear();
    for (std::int64_t l = 0; l < s.L; ++l) {
      c.k.push_back(c.arena.take(dtype, {capacity, s.K_local * s.D}));
      c.v.push_back(c.arena.take(dtype, {capacity, s.K_local * s.D}));
    }
    c.offsets = c.arena.take(DType::I32, {2});
  };
  layout();
  c.arena.allocate(device);
  layout();
  return c;
}

std::vector<PastKeysValues> extended_by(const KvCache& c, std::int64_t rows) {
  const std::int64_t end = c.length + rows;
  UPCYCLE_CHECK(end <= c.capacity, "key/value cache of {} rows, {} needed", c.capacity, end);
  std::vector<PastKeysValues> layers;
  for (std::size_t l = 0; l < c.k.size(); ++l)
    layers.push_back({c.k[l].slice_rows(0, end), c.v[l].slice_rows(0, end), c.k[l].slice_rows(c.length, end),
                      c.v[l].slice_rows(c.length, end), PackedSequences{c.offsets, 1, end}});
  return layers;
}

}  // namespace upcycle
