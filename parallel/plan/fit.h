#pragma once
#include <string>
#include <vector>

#include "parallel/plan/step_time.h"

// Which layouts of a run fit so many ranks of so much memory, and which is fastest: every layout is planned
// (make_plan), with micro batches from 1 up and as little recomputation as fits.
namespace upcycle {

// Every layout of so many ranks; of a dense model with ep = etp = 1.
std::vector<Layout> layouts_of(int world, bool moe);
// The run with this layout's tp, ep and etp.
PlannedRun with_layout(PlannedRun run, const Layout& layout);

struct FitLimits {
  int world = 1;
  std::size_t memory = 0;  // bytes of one rank
};

// One layout, with the micro batch and the recomputation that are fastest among those that fit or, where none fits,
// take the least memory.
struct FitOption {
  Layout layout;
  std::int64_t micro_batch_size = 1;
  std::string recompute;
  std::size_t bytes = 0;  // Plan::peak_bytes
  std::string largest;    // class of memory, and
  std::size_t largest_bytes = 0;
  StepTime time;
};

struct Fit {
  std::vector<FitOption> fits;       // the fastest first
  std::vector<FitOption> too_large;  // the least first
  struct Refused {
    std::string reason;
    std::vector<Layout> layouts;
  };
  std::vector<Refused> refused;  // by model or batch, the reason that rules out most first
};

Fit fit_layouts(const PlannedRun& run, const FitLimits& limits, const StepRates& rates);

// Single changes to a run of which nothing fits that make something fit, each with the fastest that then does: `keys`
// as on a command line. Those that change how it is computed come before those of the model.
struct Remedy {
  std::vector<std::string> keys;
  FitOption best;
};
std::vector<Remedy> find_remedies(const PlannedRun& run, const FitLimits& limits, const StepRates& rates);

}  // namespace upcycle
