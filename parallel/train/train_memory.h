#pragma once
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/config/config.h"
#include "core/staging.h"
#include "parallel/model/params.h"
#include "parallel/train/gradient_slots.h"

namespace upcycle {

// A pair of flat buffers, one per parameter group.
struct FlatPair {
  Tensor dense, expert;
  const Tensor& of(ParamGroup g) const { return g == ParamGroup::Dense ? dense : expert; }
};

// What is kept of each element, as what, and where.
struct StateForm {
  DType weights = DType::F32;
  bool split_masters = false;                    // beside bf16 weights: what they round off, instead of fp32 masters
  int moments = 0;                               // TrainConfig::moments
  DType moment = DType::F32;                     // fp32 or bf16
  Arena::Memory memory = Arena::Memory::Device;  // of masters and moments; split masters lie beside their weights
};
StateForm state_form(const Config& config);

// How gradients are summed over microbatches: zero_stage 1 keeps the sums of the whole model and reduces them once a
// step; 2 (arXiv 1910.02054) reduces each microbatch's and keeps the sums of the owned parts. Where the sums are bf16,
// what one microbatch adds is computed in fp32, reduced under zero_stage 2, and added in fp32: one rounding, to nearest
// even, of each element per microbatch.
struct GradientStorage {
  std::int64_t zero_stage = 1;
  DType dtype = DType::F32;
};

// What training keeps between steps, each class in an arena of its own (one line of `plan`'s output).
//   parameters  (dense.size, expert.size)             bf16 or fp32, whole on every replica
//   gradients   (dense.size, expert.size)             fp32 or bf16; under zero_stage 2 (dense.shard_size,
//               expert.shard_size); and the slots
//   optimizer   (dense.shard_size, expert.shard_size) fp32: master (bf16 runs only; in fp32 the parameters are the
//               masters), first moment (AdamW, Lion), second moment (AdamW). Of split masters (core/split_float.h) the
//               low halves, 2 bytes, and (bit_words) of ties. Moments may be bf16
//   host_state  where the optimizer is offloaded: masters (always copies of their own) and moments, in host memory
//               beside the GPU; the arena `optimizer` then holds two numbers
struct TrainMemory {
  StateForm form;
  Arena parameters{"parameters"}, gradients{"gradients"}, optimizer{"optimizer"}, host_state{"optimizer state"};
  GradientStorage storage;
  FlatPair weights, grads, master, ties, m, v;
  GradientSlots slots;  // of the groups that have replicas, under zero_stage 2; of both where the sums are bf16
  Tensor sum_squares;   // f64 (1)
  Tensor scale;         // fp32 (1): the clipping factor

  bool separate_masters() const { return master.dense.rank > 0; }  // else the parameters are the masters
};

// Plans and allocates.
TrainMemory make_train_memory(const ParamTable& table, const StateForm& form, Device& device,
                              const GradientStorage& storage = {});

// Bytes of the same layout; allocates nothing.
std::vector<MemoryClass> plan_train_memory(const ParamTable& table, const StateForm& form,
                                           const GradientStorage& storage = {});

// Views of one owned piece.
Tensor piece_of(const FlatPair& flat, const OwnedPiece& piece);           // of parameters
Tensor shard_piece_of(const FlatPair& shards, const OwnedPiece& piece);   // of optimizer buffers
Tensor master_piece(const TrainMemory& memory, const OwnedPiece& piece);  // fp32, or low halves
Tensor ties_of(const TrainMemory& memory, const OwnedPiece& piece);       // of split masters; else empty
Tensor gradient_piece(const ParamTable& table, const TrainMemory& memory, const OwnedPiece& piece);

// Where the step's raw gradient of owned elements [begin, end) of a group's flat buffer lies (in one bucket, or with no
// other replica). It is fp32 or, under zero_stage 2 and where there are no replicas, of the sums' type (raw_type).
DType raw_type(const GradientStorage& storage, const FlatGroup& group);
Tensor raw_gradient(const ParamTable& table, const TrainMemory& memory, ParamGroup g, std::int64_t begin,
                    std::int64_t end);

// The owned part of the reduced sums of a bucket of bf16 sums, zero_stage 1: fp32, in the memory of those sums, which
// have served (n / ranks times 4 bytes in n times 2).
Tensor reduced_part(const FlatGroup& group, const Tensor& sums, const Bucket& bucket);

// Where backward adds a row's gradient (PlaceOf).
Tensor gradient_place(const ParamTable& table, const TrainMemory& memory, const ParamRow& row);

// For reading and writing masters and moments, wherever they lie.
Staging state_staging(const TrainMemory& memory, Device& device, Stream& stream,
                      std::size_t piece_bytes = Staging::kPieceBytes);

}  // namespace upcycle
