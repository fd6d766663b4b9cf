#pragma once
#include "parallel/model/tensor_source.h"
#include "parallel/upcycle/logit_check.h"

namespace upcycle {

// Flat parameters of the dense model, for its logits: in the MoE trainer's `idle` gradients or, where a rank's few
// small experts make those smaller than its dense slices, in `own`.
FlatPair dense_slices(const Trainer& t, const ModelConfig& dense, IdleMemory& idle, Arena& own);

// In place, from files: fills a fresh MoE trainer (config.model from upcycled_model()) with the experts that `dense`
// becomes, each rank taking only its slices. The dense logits of `probe` (T tokens, T divisible by tp) are computed
// too, with dense parameters that the same reading puts into the gradient arena, which is still unused. A collective
// call.
UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe);

}  // namespace upcycle
