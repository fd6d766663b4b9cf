#pragma once
#include "parallel/upcycle/live_plan.h"
#include "parallel/upcycle/logit_check.h"

namespace upcycle {

// In a live run, at a step boundary: a dense trainer becomes an MoE trainer of the same mesh, with the configuration
// `config` (its model from upcycled_model()). The experts' masters are, bit for bit, those that upcycling from a
// checkpoint saved at this step would make; retained parameters (a shared expert is the MLP) keep their masters,
// moments and step counts; new ones (routers, experts) start with none, so that their first update is bias-corrected as
// step 1. Step, data position and totals continue.
//
// Each element moves once (plan_live counts the bytes):
// - Working weights of what stays do not move. Experts' are made of the dense working weights where the needed slices
//   lie on this rank (tp = 1, or etp = tp and copies); otherwise one all-gather over tp per layer brings them. In bf16
//   with noise, dropped units or a factor that is not a power of two, rounding and upcycling do not commute: then they
//   are the rounding of the new masters, gathered over edp.
// - Masters (bf16 runs) and the moments of what stays go from their owner to their new owner. In fp32 the parameters
//   are the masters.
//
// The peak in memory is during the conversion: both trainers, buffers of 64 MiB at most and the lists of what an
// exchange moves, which grow with the pieces and the rounds that a rank has a part in (70B on 1024 ranks: below 1 MiB).
struct LiveUpcycle {
  Trainer trainer;
  UpcycleReport report;
};
LiveUpcycle upcycle_live(Trainer dense, const Config& config, std::span<const std::int32_t> probe);

// The same without measuring the logits: makes `moe`, fresh from make_trainer, continue from the state of `dense`.
void convert_live(const Trainer& dense, Trainer& moe);

}  // namespace upcycle
