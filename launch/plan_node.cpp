#include "launch/plan_node.h"

#include <algorithm>

#include "core/error.h"
#include "launch/check_fits.h"
#include "launch/size_text.h"

namespace upcycle {

std::int64_t ranks_of_node(std::int64_t world, const Config& config, std::int64_t given) {
  if (given < 0 || given > world)
    input_error("command line: --ranks-per-node: found {}, expected 1 to {}, as --world={}", given, world, world);
  constexpr std::int64_t gpus = 8;
  return given > 0 ? given : config.device == "cuda" ? std::min(world, gpus) : world;
}

NodeMemory node_memory(const Plan& plan, const Config& config, std::int64_t ranks_per_node, std::size_t given) {
  const bool cuda = config.device == "cuda";
  NodeMemory node;
  node.ranks = ranks_of_node(plan.layout.world, config, ranks_per_node);
  node.per_rank = plan.host_bytes(cuda);
  node.given = given;
  for (const MemoryClass& m : plan.memory)
    if ((m.beside_gpu || !cuda) && m.bytes > 0) node.classes.push_back(m);
  std::ranges::stable_sort(node.classes, std::ranges::greater{}, &MemoryClass::bytes);
  return node;
}

std::string text_of(const NodeMemory& node, bool cuda) {
  std::string text = fmt::format("host memory per node: {} for {} rank{}, {} each", size_text(node.total()), node.ranks,
                                 node.ranks == 1 ? "" : "s", size_text(node.per_rank));
  for (std::size_t i = 0; cuda && i < node.classes.size(); ++i)
    text += fmt::format("{}{} {}", i == 0 ? " (" : ", ", node.classes[i].name, size_text(node.classes[i].bytes));
  if (cuda && !node.classes.empty()) text += ")";
  if (node.given == 0) return text;
  if (node.fits()) return text + fmt::format("\nit fits a node's {}", size_text(node.given));
  return text + fmt::format("\nit does not fit a node's {}, by {}: {}", size_text(node.given),
                            size_text(node.total() - node.given), host_advice(cuda));
}

}  // namespace upcycle
