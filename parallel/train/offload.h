#pragma once
#include <array>
#include <memory>
#include <vector>

#include "core/arena.h"
#include "parallel/train/optimizer.h"

// train.optimizer_offload: masters and moments lie in pinned host memory beside the GPU, and the CPU's ops update them.
// Gradients come down, and rounded weights go up, through buffers whose size does not depend on the model's.
//
// What this rank updates is cut into blocks, in the order of the update. A block's gradient comes down into one of
// `slots` buffers, which the blocks use in turn: those of the first blocks are on their way as soon as backward and the
// sums over replicas have finished them; the others follow while the CPU updates the blocks before. The norm is the
// device's, so nothing is updated, and no slot is free again, before all gradients are known.
namespace upcycle {

struct OffloadSizes {
  std::int64_t block = std::int64_t{1} << 24;  // elements, at most, but at least one row of a matrix
  std::size_t slots = 8;
};

struct Offload {
  struct Block {
    OwnedPiece piece;   // whole rows of one of Optimizer::updated
    std::int64_t part;  // Bucket::layer
    DType gradient;     // raw_type
    Event down;         // its gradient has come
  };
  struct Upload {
    Tensor weights;  // (largest block), pinned
    Event sent;
  };

  // Destroyed in reverse order: the streams, which end their copies, before the memory.
  Arena buffers{"offload buffers"};
  std::vector<Block> blocks;
  std::vector<Tensor> slots;  // (largest block), pinned: of the gradients of blocks i, i + slots.size(), ...
  Tensor wide;                // fp32 (largest block whose gradient is bf16): that gradient, as the update takes it
  std::array<Upload, 2> uploads;
  Tensor sum_squares, scale;  // f64 (1), fp32 (1): as in TrainMemory, on the host
  std::vector<bool> started;  // whether the gradient of slot i's first block is on its way
  std::size_t next = 0;       // the block to be updated
  Ops* ops = nullptr;         // the CPU's
  std::unique_ptr<Stream> on_cpu, down, up;
};

// Whether a run's masters and moments are to lie in host memory beside its GPU.
bool offloads(const Config& config);

// Plans and allocates, for what `o` updates. `on_cpu`: the CPU's ops, which must outlive it.
std::shared_ptr<Offload> make_offload(const Optimizer& o, const TrainMemory& memory, Ops& on_cpu,
                                      OffloadSizes sizes = {});

// The same buffers' bytes, and what a step moves; allocates nothing.
struct OffloadCost {
  std::size_t buffers = 0;
  double down = 0, up = 0;  // bytes of gradients and weights that cross the link to the GPU, per step
  double host_memory = 0;   // bytes that the host's memory moves for it: the update's operands, and those copies
};
OffloadCost plan_offload(const Optimizer& o, const StateForm& state, const GradientStorage& gradients,
                         OffloadSizes sizes = {});

// Below, each returns at once where nothing is offloaded.

// The step's gradients of one part (Bucket::layer) are complete once o.sums are, but for rows replicated over tp:
// starts to copy those that have a slot.
void start_offload(Optimizer& o, const TrainMemory& memory, std::int64_t layer);
// All gradients are complete in the order of o.stream: starts the rest of those that have a slot.
void finish_offload(Optimizer& o, const TrainMemory& memory);
// The clipping factor, of the squared norm.
void clip_on_host(Optimizer& o, double sum_squares);
// Updates one of o.updated, which come in order; o.stream's later work comes after its weights have arrived.
void update_on_host(Optimizer& o, const TrainMemory& memory, const OwnedPiece& p, double lr);

}  // namespace upcycle
