#pragma once
#include "core/staging.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/train/train_memory.h"

// What a rank keeps of its owned pieces, as the fp32 numbers that checkpoints hold, in whatever form it lies.
namespace upcycle {

// Where one kind of state of an owned piece of n elements lies, on the device or as a copy on the host.
struct StatePiece {
  Tensor values;        // fp32 (n), of moments perhaps bf16; of split masters their low halves,
  Tensor weight, ties;  // and the other parts (UpdateTensors)
};
StatePiece state_piece(const TrainMemory& memory, StateKind kind, const OwnedPiece& piece);

// Room for a copy, and the copying, in stream order.
StatePiece take_copy(Arena& host, const StateForm& form, StateKind kind, const OwnedPiece& piece);
void copy_to_host(Device& device, Stream& stream, const StatePiece& to, const StatePiece& from);
// Elements [begin, begin + n) of a copy.
void copied_floats(const StatePiece& copy, std::int64_t begin, std::int64_t n, float* out);

// Elements of an owned piece: `rows` runs of `columns`, the first from element `first` on, `pitch` apart.
struct PiecePart {
  std::int64_t first, rows, columns, pitch;
};
// `values` (rows, columns) are packed. Writing to moments in bf16 rounds to nearest even. Writing split masters writes
// the weights that they round to, too; it waits for the stream.
void read_state(Staging& staging, const TrainMemory& memory, StateKind kind, const OwnedPiece& piece,
                const PiecePart& part, float* values);
void write_state(Staging& staging, const TrainMemory& memory, StateKind kind, const OwnedPiece& piece,
                 const PiecePart& part, const float* values);

}  // namespace upcycle
