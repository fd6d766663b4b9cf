#pragma once
#include <string>
#include <vector>

#include "core/arena.h"
#include "parallel/model/params.h"

namespace upcycle {

// A pair of flat buffers, one per parameter group.
struct FlatPair {
  Tensor dense, expert;
  const Tensor& of(ParamGroup g) const { return g == ParamGroup::Dense ? dense : expert; }
};

// What training keeps between steps, each class in an arena of its own (one line of `plan`'s output).
//   parameters  (dense.size, expert.size)             bf16 or fp32, whole on every replica
//   gradients   (dense.size, expert.size)             fp32
//   optimizer   (dense.shard_size, expert.shard_size) fp32: master (bf16 runs only; in fp32 the parameters are the
//               masters), first moment (AdamW, Lion), second moment (AdamW)
struct TrainMemory {
  Arena parameters{"parameters"}, gradients{"gradients"}, optimizer{"optimizer"};
  FlatPair weights, grads, master, m, v;
  Tensor sum_squares;  // f64 (1)
  Tensor scale;        // fp32 (1): the clipping factor
};

// Plans and allocates. `moments`: TrainConfig::moments.
TrainMemory make_train_memory(const ParamTable& table, DType dtype, int moments, Device& device);

// Bytes of the same layout; allocates nothing.
std::vector<MemoryClass> plan_train_memory(const ParamTable& table, DType dtype, int moments);

// Views of one owned piece.
Tensor piece_of(const FlatPair& flat, const OwnedPiece& piece);          // of parameters or gradients
Tensor shard_piece_of(const FlatPair& shards, const OwnedPiece& piece);  // of optimizer buffers
Tensor master_piece(const TrainMemory& memory, const OwnedPiece& piece);

}  // namespace upcycle
