#pragma once
#include "parallel/train/optimizer.h"

// From complete gradients to the clipped sum of all replicas.
namespace upcycle {

void zero_gradients(Optimizer& o, TrainMemory& memory);

// Before a microbatch's backward: empties the slots that it begins with.
void start_backward(Optimizer& o, TrainMemory& memory);
// backward has completed the gradients of one part of the model (Bucket::layer) for one microbatch, `last` the step's.
// Starts the reduce-scatter of the part's buckets over dp or edp, overlapping with the backward of the layers below: of
// their sums in the last microbatch or, under ZeRO-2, of each microbatch's; then makes the next part's slots ready.
void start_reduction(Optimizer& o, TrainMemory& memory, std::int64_t layer, bool last);
// Instead of it: this microbatch's gradients of the part are not wanted.
void drop_gradients(Optimizer& o, TrainMemory& memory, std::int64_t layer);
// Waits for all that was started, then sums over tp the owned pieces of rows that are replicated there (under sequence
// parallelism each rank saw its own tokens): gradient_piece is the step's raw gradient.
//
// The sum over tp comes last because only then all of its ranks get the same bits: the dp groups of two tp ranks may
// add in different orders (NCCL's do, NVIDIA/nccl issue 2091), and the replicas would drift apart.
void finish_reduction(Optimizer& o, TrainMemory& memory);

// gradient_piece in fp32: where it is bf16, converted in the slots' memory, valid until the next call.
Tensor fp32_gradient(Optimizer& o, const TrainMemory& memory, const OwnedPiece& piece);

// Starts to copy this rank's part of the squared norm of the raw gradient to `sum_squares`, in memory that
// Device::allocate_host gave: of all parameters that are not frozen, each logical element on one rank of the mesh.
void start_norm(Optimizer& o, TrainMemory& memory, double& sum_squares);
// Once the stream is synchronized: makes it the squared global norm, added up in rank order on the host, so that it is
// the same on all ranks, and sets memory.scale to the clipping factor.
void clip_gradients(Optimizer& o, TrainMemory& memory, double& sum_squares);

}  // namespace upcycle
