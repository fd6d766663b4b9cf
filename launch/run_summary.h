#pragma once
#include <string>
#include <vector>

#include "core/config/check.h"
#include "core/config/config.h"
#include "parallel/comm/layout.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

// What is trained, in one line: the model, its parameters, the layout, steps, tokens and memory (`plan`: a rank's). The
// run's run.json has every key.
std::string run_summary(const Config& config, const Layout& layout, const Trained& done,
                        const std::vector<MemoryClass>& plan);

}  // namespace upcycle
