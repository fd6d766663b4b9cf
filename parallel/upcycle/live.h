#pragma once
#include "parallel/upcycle/logit_check.h"

namespace upcycle {

// In a live run, at a step boundary: a dense trainer becomes an MoE trainer with the configuration `config` (its model
// from upcycled_model()). Masters become the experts' as upcycling from a checkpoint would make them; parameters that
// stay (a shared expert is the MLP) keep their masters, moments and step counts; fresh ones (routers, experts) start
// with none, so that their first update is bias-corrected as step 1. Step, data position and totals go on. Both
// trainers exist during the conversion: that is the peak in memory. tp = 1 (InputError otherwise).
struct LiveUpcycle {
  Trainer trainer;
  UpcycleReport report;
};
LiveUpcycle upcycle_live(Trainer dense, const Config& config, std::span<const std::int32_t> probe);

}  // namespace upcycle
