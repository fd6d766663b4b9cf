#pragma once
#include <string>

#include "parallel/train/step.h"

namespace upcycle {

// debug.dump: makes DIR where it is missing; InputError where it can not be written, or is not empty.
void make_dump_folder(const std::string& dir);

// Runs forward and backward of the trainer's next step and writes the activations, their gradients and the raw
// gradients of all parameters to DIR (dump_files.h), this rank's part of them. Nothing is updated: the following step
// is the same as without the dump. A collective call.
//   microbatch.M.tokens, .targets, .nll    i32, i32, fp32 (T)
//   microbatch.M.layers.L.x, .x_mid        (T, H) the residual entering attention, and entering the MLP
//   microbatch.M.layers.L.mlp_norm, .mlp   (T, H) what the MLP or the experts read, and add to the residual
//   microbatch.M.layers.L.experts, .weights  i32, fp32 (T, k) the router's choice
//   microbatch.M.final_norm                (T, H)
//   microbatch.M.dx, .layers.L.dx_mid, .dx (T, H) gradient of the last residual, and of a layer's two
//   gradient.NAME                          fp32, of the parameter of this name, summed over all microbatches and ranks
// M counts the step's microbatches over all ranks.
void dump_step(Trainer& t, const SequenceSource& source, const std::string& dir);

}  // namespace upcycle
