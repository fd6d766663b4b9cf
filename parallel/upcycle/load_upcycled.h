#pragma once
#include <vector>

#include "parallel/checkpoint/load.h"
#include "parallel/checkpoint/read_once.h"
#include "parallel/upcycle/expert_maker.h"

namespace upcycle {

// Fills parameters of the MoE from dense tensors through buffers of `buffer_bytes` in all: each dense rectangle is read
// once, in blocks of whole rows, and made into all of `rows` that come from it. So upcycling from a checkpoint is
// loading: a rank reads the slices of its own shard and experts, whatever layout the checkpoint has, straight into its
// arena. `store` and `host` as in load_parameters. `also`: further dense rectangles that are wanted, from the same
// reading. InputError where the source lacks a tensor.
void load_upcycled(const std::vector<const ParamRow*>& rows, TensorSource& dense, const ExpertMaker& maker,
                   std::size_t buffer_bytes, const StoreRows& store, std::vector<Want> also = {},
                   const HostGroup* host = nullptr);

}  // namespace upcycle
