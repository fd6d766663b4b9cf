#include "parallel/train/train_memory.h"

namespace upcycle {
namespace {

FlatPair take_pair(Arena& arena, DType dtype, std::int64_t dense, std::int64_t expert) {
  return {arena.take(dtype, {dense}), arena.take(dtype, {expert})};
}

void layout(TrainMemory& memory, const ParamTable& table, DType dtype, int moments) {
  memory.weights = take_pair(memory.parameters, dtype, table.dense.size, table.expert.size);
  memory.grads = take_pair(memory.gradients, DType::F32, table.dense.size, table.expert.size);
  const auto shard = [&] {
    return take_pair(memory.optimizer, DType::F32, table.dense.shard_size, table.expert.shard_size);
  };
  if (dtype != DType::F32) memory.master = shard();
  if (moments > 0) memory.m = shard();
  if (moments > 1) memory.v = shard();
  memory.sum_squares = memory.optimizer.take(DType::F64, {1});
  memory.scale = memory.optimizer.take(DType::F32, {1});
}

Tensor slice(const Tensor& flat, std::int64_t begin, std::int64_t size) { return flat.slice_rows(begin, begin + size); }

}  // namespace

TrainMemory make_train_memory(const ParamTable& table, DType dtype, int moments, Device& device) {
  TrainMemory memory;
  layout(memory, table, dtype, moments);
  memory.parameters.allocate(device);
  memory.gradients.allocate(device);
  memory.optimizer.allocate(device);
  layout(memory, table, dtype, moments);
  return memory;
}

std::vector<MemoryClass> plan_train_memory(const ParamTable& table, DType dtype, int moments) {
  TrainMemory memory;
  layout(memory, table, dtype, moments);
  return {{"parameters", memory.parameters.high_water()},
          {"gradients", memory.gradients.high_water()},
          {"optimizer", memory.optimizer.high_water()}};
}

Tensor piece_of(const FlatPair& flat, const OwnedPiece& piece) {
  return slice(flat.of(piece.row->group), piece.flat, piece.part.size());
}

Tensor shard_piece_of(const FlatPair& shards, const OwnedPiece& piece) {
  return slice(shards.of(piece.row->group), piece.shard, piece.part.size());
}

Tensor master_piece(const TrainMemory& memory, const OwnedPiece& piece) {
  return memory.weights.dense.dtype == DType::F32 ? piece_of(memory.weights, piece)
                                                  : shard_piece_of(memory.master, piece);
}

}  // namespace upcycle
