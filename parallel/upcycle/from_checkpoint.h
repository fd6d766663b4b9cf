#pragma once
#include "parallel/checkpoint/tensor_source.h"
#include "parallel/upcycle/logit_check.h"

namespace upcycle {

// In place, from files: fills a fresh MoE trainer (config.model from upcycled_model()) with the experts that `dense`
// becomes, each rank reading just its slices. Before, the dense logits of `probe` (T tokens, T divisible by tp) are
// kept, the dense parameters sitting meanwhile in the gradient arena, which is still empty.
UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe);

}  // namespace upcycle
