#pragma once
#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "launch/backend.h"

// What `upcycle doctor` tries on each rank. Times are taken on all ranks at once, as in training.
namespace upcycle {

struct ProductCheck {
  double flops = 0;      // per second, over all of the time
  double sustained = 1;  // the last quarter's rate over the first's
  bool right = true;     // every result was exact
};
// Large matrix products of small whole numbers, whose results are known, for about `seconds`.
ProductCheck check_products(const Backend& backend, Communicator& world, DType dtype, double seconds);

struct ExchangeCheck {
  double all_to_all = 0;  // bytes that this rank sends per second while all send to all
  double alone = 0;       // bytes per second into and out of this rank while all others only talk to it
  bool right = true;      // every number came from where it should
};
// Collective. Zeros on one rank.
ExchangeCheck check_exchange(const Backend& backend, Communicator& world, double seconds);

struct FolderCheck {
  std::string kind;     // of the file system: "ext4"
  double free = 0;      // bytes
  double write = 0;     // bytes per second, with fsync
  std::string failure;  // "": an HDF5 file is written, read again, and rank 0's file is seen
};
// Leaves nothing behind. Collective.
FolderCheck check_folder(const std::string& folder, Communicator& world);

struct ProcessorFacts {
  std::string name, instructions;  // "avx2 avx512f avx512_bf16 amx_bf16", those of them that it has
};
ProcessorFacts processor_facts();

}  // namespace upcycle
