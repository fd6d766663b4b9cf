#pragma once
#include <string>

#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

// Makes OUT, a run folder, with the source's step as the ranks of `layout` would have saved it: the same files, byte
// for byte, moments included where the source has them. Everything else that the source says (step, data position,
// totals, step counts, init, config) is kept, and its other files are copied. One process streams it, through a buffer
// of 32 MiB. InputError where the model does not divide over the layout, or OUT is neither absent nor an empty folder;
// on failure nothing of it remains.
void reshard(Checkpoint& source, const std::string& out, const Layout& layout);

// What reshard refuses before it reads any tensor, so that it can be known before the source is hashed.
void check_reshard(const std::string& source_folder, const ModelConfig& model, const std::string& out,
                   const Layout& layout);

}  // namespace upcycle
