#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "parallel/checkpoint/load.h"
#include "parallel/checkpoint/read_once.h"
#include "parallel/upcycle/expert_maker.h"

namespace upcycle {

// A dense source seen as the MoE it becomes: reading an expert's rectangle reads just the dense rectangle it is made
// of. `moe` comes from upcycled_model(). With drop_ratio the dense matrices are read whole, once, when it is made
// (file_statistics). `dense` must outlive it.
std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed);

// Fills parameters of the MoE from dense tensors through buffers of `buffer_bytes` in all: each dense rectangle is read
// once, in blocks of whole rows, and made into all of `rows` that come from it. So upcycling from a checkpoint is
// loading: a rank reads the slices of its own shard and experts, whatever layout the checkpoint has, straight into its
// arena. `store` and `host` as in load_parameters. `also` are dense rectangles that are wanted besides, and not read
// again for it. InputError where the source lacks a tensor.
void load_upcycled(const std::vector<const ParamRow*>& rows, TensorSource& dense, const ExpertMaker& maker,
                   std::size_t buffer_bytes, const StoreRows& store, std::vector<Want> also = {},
                   const HostGroup* host = nullptr);

}  // namespace upcycle
