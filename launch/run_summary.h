#pragma once
#include <string>
#include <vector>

#include "core/config/check.h"
#include "core/config/config.h"
#include "parallel/comm/layout.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

// One line that says what is trained: model, parameters, layout, steps, tokens, memory per rank (`plan`) and to what
// MFU is relative (peak_flops: FLOP/s of all ranks, see yardstick.h). run.json has every key.
std::string run_summary(const Config& config, const Layout& layout, const Trained& done,
                        const std::vector<MemoryClass>& plan, double peak_flops);

}  // namespace upcycle
