#include "parallel/model/batch.h"

#include <vector>

namespace upcycle {

Batch take_batch(Arena& arena, const PassShape& pass) {
  Batch b;
  b.tokens = arena.take(DType::I32, {pass.T()});
  b.targets = arena.take(DType::I32, {pass.T()});
  b.positions = arena.take(DType::I32, {pass.T()});
  b.offsets = arena.take(DType::I32, {(pass.documents ? pass.T() : pass.B) + 1});
  b.sequences = {b.offsets.slice_rows(0, pass.B + 1), pass.B, pass.S};
  return b;
}

void fill_batch_shape(Device& device, Stream& stream, const Batch& b, const PassShape& pass) {
  std::vector<std::int32_t> positions, offsets;
  for (std::int64_t i = 0; i < pass.T(); ++i) positions.push_back(static_cast<std::int32_t>(i % pass.S));
  for (std::int64_t i = 0; i <= pass.B; ++i) offsets.push_back(static_cast<std::int32_t>(i * pass.S));
  device.copy_from_host(stream, b.positions.data, positions.data(), b.positions.bytes());
  device.copy_from_host(stream, b.sequences.offsets.data, offsets.data(), b.sequences.offsets.bytes());
  stream.synchronize();
}

}  // namespace upcycle
