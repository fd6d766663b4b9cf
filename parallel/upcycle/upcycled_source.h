#pragma once
#include <memory>

#include "parallel/model/tensor_source.h"
#include "parallel/upcycle/expert_maker.h"

namespace upcycle {

// A dense source seen as the MoE it becomes: what load_upcycled must make, without its buffers. Reading an expert's
// rectangle reads just the dense rectangle it is made of. `moe` comes from upcycled_model(). With drop_ratio the dense
// matrices are read whole, once, when it is made (file_statistics). `dense` must outlive it.
std::unique_ptr<TensorSource> make_upcycled_source(TensorSource& dense, const ModelConfig& moe,
                                                   const UpcycleConfig& upcycle, std::uint64_t seed);

}  // namespace upcycle
