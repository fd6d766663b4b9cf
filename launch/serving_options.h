#pragma once
#include <cstddef>
#include <string>

#include "core/config/config.h"
#include "core/device.h"
#include "kernels/dry/dry_ops.h"
#include "parallel/comm/layout.h"
#include "parallel/serve/scheduler.h"

namespace upcycle {

class Options;

// How a model is to be served, from the command line; vLLM's names.
struct ServingOptions {
  std::string policy = "mixed", memory;
  std::int64_t max_num_seqs = 256, max_num_batched_tokens = 0, max_model_len = 0, block_size = 16;
};
void add_serving_options(Options& options, ServingOptions& serving);

// For one rank of the layout. The cache gets the memory that the weights and a step leave of `available` bytes, or of
// --memory, but no more than max_num_seqs sequences can fill. InputError naming the option where that is less than one
// sequence needs.
SchedulerOptions scheduler_options(const ServingOptions& serving, const ModelConfig& model, const Layout& layout,
                                   DType dtype, DeviceKind computes, std::size_t available,
                                   const WorkspaceBytes& workspace_bytes);

}  // namespace upcycle
