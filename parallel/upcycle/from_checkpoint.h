#pragma once
#include "parallel/model/tensor_source.h"
#include "parallel/upcycle/logit_check.h"

namespace upcycle {

// In place, from files: fills a fresh MoE trainer (config.model from upcycled_model()) with the experts that `dense`
// becomes, each rank taking just its slices. The dense logits of `probe` (T tokens, T divisible by tp) are measured
// too, by dense parameters that the same reading leaves in the gradient arena, which is still empty. A collective call.
UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe);

}  // namespace upcycle
