#include "parallel/checkpoint/reshard.h"
#include "core/error.h"
#include "core/log.h"
#include "launch/commands.h"
#include "launch/options.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {

constexpr std::int64_t kMaxWorld = 65536;

int checked(const char* name, std::int64_t value) {
  if (value < 1 || value > kMaxWorld)
    input_error("command line: {}: found {}, expected 1 to {}", name, value, kMaxWorld);
  return static_cast<int>(value);
}

}  // namespace

int run_reshard(const Arguments& arguments) {
  std::string dir, out;
  std::int64_t world = 0, tp = 1, ep = 1, etp = 1;
  Options options("reshard",
                  "A checkpoint as another layout would have saved it. Training and all commands read any layout: this "
                  "is only needed for the files themselves.");
  options.positional("checkpoint", dir, "a run folder (its newest step) or a step's folder");
  options.positional("out", out, "the run folder to make");
  options.option("--world", world, "ranks; 0: as many as the checkpoint's layout");
  options.option("--parallel.tp", tp, "tensor-parallel ranks");
  options.option("--parallel.ep", ep, "expert-parallel ranks");
  options.option("--parallel.etp", etp, "ranks that share one expert: 1, or tp");
  options.example("upcycle reshard runs/moe moe_tp2 --world=8 --parallel.tp=2 --parallel.ep=4",
                  "files as eight ranks would have written them");
  if (!options.parse(arguments)) return 0;
  // First check all that needs no tensor: hashing a large checkpoint takes minutes.
  const StepFolder step = look_at_step(dir);
  const Layout layout =
      make_layout(world == 0 ? step.manifest.info.layout.world : checked("--world", world),
                  checked("--parallel.tp", tp), checked("--parallel.ep", ep), checked("--parallel.etp", etp));
  check_reshard(step.path, step.manifest.info.model, out, layout);
  const auto source = open_checkpoint(step.path);
  reshard(*source, out, layout);
  const Layout& from = source->info().layout;
  log_info("{}: step {} of world {} (tp {}, ep {}, etp {}) as world {} (tp {}, ep {}, etp {}) in {}", dir,
           source->info().step, from.world, from.tp, from.ep, from.etp, layout.world, layout.tp, layout.ep, layout.etp,
           out);
  return 0;
}

}  // namespace upcycle
