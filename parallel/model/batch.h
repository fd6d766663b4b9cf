#pragma once
#include "core/arena.h"
#include "kernels/op_types.h"
#include "parallel/model/pass_shape.h"

namespace upcycle {

// One microbatch on the device: B sequences of S tokens, batch-major. The same on all tp ranks.
struct Batch {
  Tensor tokens;              // i32 (T)
  Tensor targets;             // i32 (T), -1: not counted
  Tensor positions;           // i32 (T), within the sequence, for RoPE
  PackedSequences sequences;  // attention stays within each
  Tensor offsets;             // room for those of `sequences`: i32 (B + 1), or (T + 1) under PassShape::documents
};

// Takes a batch's buffers; fill_batch_shape then writes what does not change from batch to batch: B sequences of S,
// positions from 0 (once, after the arena is allocated).
Batch take_batch(Arena& arena, const PassShape& pass);
void fill_batch_shape(Device& device, Stream& stream, const Batch& batch, const PassShape& pass);

}  // namespace upcycle
