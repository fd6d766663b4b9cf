#pragma once
#include <memory>

#include "parallel/checkpoint/tensor_source.h"

namespace upcycle {

// A dense source seen as the MoE it becomes: reading an expert's rectangle reads just the dense rectangle it is made
// of. So upcycling from a checkpoint is loading: each rank takes the slices of its own shard and experts straight into
// its arena, whatever layout the dense checkpoint has. `moe` comes from upcycled_model(). Router rows are drawn normal
// with upcycle.router_std, tied within a virtual group; dropped units are redrawn from their matrix's own mean and
// standard deviation (the whole matrix is read for them, once); noise, keyed by (seed, tensor, element), is added to
// all of gate, up and down; upcycle.scale then multiplies the result, so that noise keeps its size beside the weights.
// `dense` must outlive it. Beside a shared expert the routed downs are zero.
std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed);

// The dense tensor that a parameter of the MoE goes on as, unchanged: its own name or, of a shared expert, the MLP's
// that it is. "" for routers and experts, which are fresh.
std::string retained_tensor(const ParamRow& row);

}  // namespace upcycle
