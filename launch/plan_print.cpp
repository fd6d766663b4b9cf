#include "launch/plan_print.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "core/config/batch_ramp.h"
#include "launch/size_text.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kGiB = 1 << 30;
double gib(std::size_t bytes) { return static_cast<double>(bytes) / kGiB; }

// What to change first if a rank's memory is too small, by its largest class.
std::string advice(const Plan& plan, bool cuda) {
  const auto bytes = [](const MemoryClass& m) { return m.beside_gpu ? 0 : m.bytes; };
  const auto largest =
      std::max_element(plan.memory.begin(), plan.memory.end(),
                       [&](const MemoryClass& a, const MemoryClass& b) { return bytes(a) < bytes(b); });
  if (plan.upcycling_bytes > plan.training_bytes())
    return "the peak is during upcycling: save a dense checkpoint and start with init.upcycle, or "
           "use more ranks";
  const std::string name = largest->name;
  std::string what = "use fewer tokens per microbatch";
  if (name == "parameters" || name == "gradients") what = "raise parallel.ep, parallel.etp or parallel.tp";
  if (name == "optimizer" || name == "checkpoint snapshot") what = "use more ranks: it is cut over all replicas";
  if (name == "optimizer" && cuda) what += ", or train.optimizer_offload";
  if (name == "activations")
    what =
        "use train.recompute (the table says what each class saves), a smaller train.micro_batch_size or a larger "
        "parallel.tp";
  if (name == "dispatch buffers")
    what = "use a smaller train.micro_batch_size or parallel.imbalance_factor, or train.recompute=full";
  return fmt::format("the largest class is {}: {}", name, what);
}

}  // namespace

Json to_json(const std::vector<RecomputeCost>& costs) {
  Json list = Json::array();
  for (const RecomputeCost& c : costs)
    list.push_back({{"setting", c.setting},
                    {"memory_training", c.memory},
                    {"recomputed_bytes", c.recomputed_bytes},
                    {"flops", c.flops},
                    {"collective_bytes", c.collective_bytes}});
  return list;
}

// Beside what the first of them, none, takes.
void print(const std::vector<RecomputeCost>& costs) {
  const RecomputeCost& none = costs.front();
  fmt::print("\ntrain.recompute: what it saves, and what a step of this rank then does more\n");
  fmt::print("  {:<28}{:>14}{:>14}{:>10}{:>14}\n", "", "saves", "made again", "FLOPs", "collectives");
  for (const RecomputeCost& c : costs)
    fmt::print("  {:<28}{:>14}{:>14}{:>+8.2f} %{:>14}\n", c.setting,
               c.memory > none.memory ? "-" + size_text(c.memory - none.memory) : size_text(none.memory - c.memory),
               size_text(c.recomputed_bytes), 100 * (c.flops / none.flops - 1),
               size_text(c.collective_bytes - none.collective_bytes));
}

Json to_json(const Plan& p, std::size_t memory, bool cuda, double host_rate) {
  Json j;
  j["world"] = p.layout.world;
  j["rank"] = p.rank;
  j["layout"] = {
      {"tp", p.layout.tp}, {"dp", p.layout.dp}, {"ep", p.layout.ep}, {"etp", p.layout.etp}, {"edp", p.layout.edp}};
  j["parameters"] = p.parameters.total;
  j["active_parameters"] = p.parameters.active;
  j["tokens_per_step"] = p.tokens;
  j["micro_batches"] = p.micro_batches;
  j["memory"] = Json::object();
  for (const MemoryClass& m : p.memory) j["memory"][m.name] = m.bytes;
  if (cuda) {  // the other classes are the GPU's
    j["memory_on_host"] = Json::array();
    for (const MemoryClass& m : p.memory)
      if (m.beside_gpu) j["memory_on_host"].push_back(m.name);
  }
  j["memory_training"] = p.training_bytes();
  j["memory_upcycling"] = p.upcycling_bytes;
  j["memory_peak"] = p.peak_bytes();
  if (memory > 0) {
    j["memory_given"] = memory;
    j["fits"] = p.peak_bytes() <= memory;
    if (p.peak_bytes() > memory) j["advice"] = advice(p, cuda);
  }
  j["collectives"] = Json::array();
  std::uint64_t fixed = 0;
  for (const CollectiveCount& c : p.fixed) {
    j["collectives"].push_back({{"group", c.group}, {"op", c.op}, {"calls", c.calls}, {"bytes", c.bytes}});
    fixed += c.bytes;
  }
  j["fixed_bytes"] = fixed;
  j["dispatch"] = {{"calls", p.dispatch.calls}, {"bytes", p.dispatch.bytes}, {"bytes_all_ranks", p.dispatch_total}};
  j["live_conversion"] = {{"statistics", p.live.statistics},
                          {"working_tp", p.live.working_tp},
                          {"working_edp", p.live.working_edp},
                          {"masters", p.live.masters},
                          {"moments", p.live.moments}};
  j["flops"] = p.flops;
  j["flops_all_ranks"] = p.flops_total;
  j["model_flops"] = p.model_flops;
  j["product_memory_bytes"] = p.memory_bytes;
  if (p.offload.host_memory > 0)
    j["offload"] = {{"down", p.offload.down},
                    {"up", p.offload.up},
                    {"host_memory", p.offload.host_memory},
                    {"host_rate", host_rate},
                    {"seconds", p.offload.host_memory / host_rate}};
  j["files"] = {{"model", p.model_file},
                {"optimizer", p.optimizer_file},
                {"all_ranks", p.files_total},
                {"model_alone", p.model_alone},
                {"model_alone_all_ranks", p.model_alone_total}};
  return j;
}

void print(const Plan& p, std::size_t memory, const Config& config, double host_rate) {
  const Layout& l = p.layout;
  fmt::print("{:.4g} B parameters, {:.4g} B active per token\n", static_cast<double>(p.parameters.total) / 1e9,
             static_cast<double>(p.parameters.active) / 1e9);
  fmt::print("world {} = tp {} x dp {} (experts: etp {} x ep {} x edp {}); rank {}\n", l.world, l.tp, l.dp, l.etp, l.ep,
             l.edp, p.rank);
  fmt::print("per step: {} tokens; {} microbatch{} per rank\n", p.tokens, p.micro_batches,
             p.micro_batches == 1 ? "" : "es");
  if (const std::vector<std::int64_t>& ramp = config.train.rampup_batch_size; ramps_batch(config.train))
    fmt::print("the first {} steps are smaller: {} sequences and more in the place of {}\n",
               steps_for(config.train, 0, ramp[2]), ramp[0], config.train.global_batch_size);
  fmt::print("\n");
  fmt::print("memory of this rank\n");
  const auto line = [](const std::string& name, const std::string& calls, std::uint64_t bytes,
                       const std::string& more) {
    fmt::print("  {:<28}{:>10}{:>14}{}\n", name, calls, size_text(bytes), more);
  };
  for (const MemoryClass& m : p.memory) line(m.name, "", m.bytes, m.beside_gpu ? "  in host memory" : "");
  line("total", "", p.training_bytes(), "");
  if (p.upcycling_bytes > 0) line("while it is upcycled", "", p.upcycling_bytes, "");

  fmt::print("\ncollectives per step: calls and bytes that this rank contributes\n");
  for (const CollectiveCount& c : p.fixed) line(c.group + " " + c.op, fmt::format("{}", c.calls), c.bytes, "");
  if (p.dispatch.calls > 0)
    line("ep all_to_all_v (dispatch)", fmt::format("{}", p.dispatch.calls), p.dispatch.bytes,
         fmt::format("  where routing is even; {} of all ranks", size_text(p.dispatch_total)));
  const LiveBytes& live = p.live;
  const auto working = static_cast<std::uint64_t>(live.working_tp + live.working_edp),
             masters = static_cast<std::uint64_t>(live.masters), moments = static_cast<std::uint64_t>(live.moments);
  if (const std::uint64_t all = working + masters + moments + static_cast<std::uint64_t>(live.statistics))
    line("upcycle.at_step, once", "", all,
         fmt::format("  weights {}, masters {}, moments {}", size_text(working), size_text(masters),
                     size_text(moments)));

  fmt::print("\nFLOPs of a step: {:.4g} on this rank, {:.4g} on all, {:.4g} of the model\n", p.flops, p.flops_total,
             p.model_flops);
  if (const OffloadCost& o = p.offload; o.host_memory > 0)
    fmt::print(
        "optimizer offload per step: {} down, {} up, {} of host memory moved: {:.3g} s of the CPU at {:.3g} GB/s\n",
        size_text(static_cast<std::uint64_t>(o.down)), size_text(static_cast<std::uint64_t>(o.up)),
        size_text(static_cast<std::uint64_t>(o.host_memory)), o.host_memory / host_rate, host_rate / 1e9);
  fmt::print("a checkpoint: {} of this rank (model {}, optimizer {}), {} in all\n",
             size_text(p.model_file + p.optimizer_file), size_text(p.model_file), size_text(p.optimizer_file),
             size_text(p.files_total));
  if (p.model_alone > 0)
    fmt::print("its weights alone: {} of this rank, {} in all\n", size_text(p.model_alone),
               size_text(p.model_alone_total));
  if (config.checkpoint.snapshot == "bucket")
    fmt::print("training waits at each save until this rank's bytes are written: checkpoint.snapshot = bucket\n");
  if (config.checkpoint.max_pending > 1)
    fmt::print("{} copies of the state: so many saves may wait for the disk (checkpoint.max_pending)\n",
               config.checkpoint.max_pending);
  if (memory == 0) return;
  if (p.peak_bytes() <= memory) {
    fmt::print("it fits {}\n", size_text(memory));
  } else {
    fmt::print("it does not fit {}, by {}: {}\n", size_text(memory), size_text(p.peak_bytes() - memory),
               advice(p, config.device == "cuda"));
  }
}

// One row of the tables of launch/plan_tables.sh.
void print_row(const Plan& p, const Config& c, std::size_t memory) {
  std::map<std::string, std::size_t> classes;
  std::size_t in_the_way = 0;
  for (const MemoryClass& m : p.memory) {
    classes[m.name] = m.bytes;
    if (m.name == "checkpoint snapshot" && !m.beside_gpu) in_the_way = m.bytes;
  }
  const std::size_t snapshot = classes["checkpoint snapshot"];
  const char* fits = memory == 0                                 ? "-"
                     : p.peak_bytes() <= memory                  ? "yes"
                     : p.training_bytes() - in_the_way <= memory ? "without the snapshot"
                                                                 : "no";
  std::uint64_t fixed = 0;
  for (const CollectiveCount& count : p.fixed) fixed += count.bytes;
  fmt::print("| {} | tp {} ep {} etp {} | {}, {} |", p.layout.world, p.layout.tp, p.layout.ep, p.layout.etp,
             c.train.micro_batch_size, c.train.recompute);
  for (const std::size_t bytes :
       {classes["parameters"], classes["gradients"], classes["optimizer"], classes["activations"],
        classes["dispatch buffers"], classes["scratch"], classes["collectives"] + classes["CUDA and NCCL (estimate)"],
        snapshot, p.training_bytes()})
    fmt::print(" {:.1f} |", gib(bytes));
  fmt::print(" {} | {:.0f} | {:.0f} | {:.1f} | {:.0f} |\n", fits, gib(p.dispatch.bytes), gib(fixed), p.flops / 1e15,
             gib(p.files_total));
}

}  // namespace upcycle
