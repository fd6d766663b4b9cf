#include "parallel/plan/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/plan_node.h"
#include "launch/run_setup.h"
#include "launch/serving_options.h"
#include "launch/size_text.h"
#include "launch/study/study_plan.h"
#include "parallel/plan/recompute_costs.h"
#include "parallel/serve/engine.h"
#include "parallel/serve/engine_buffers.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kGiB = 1 << 30;
double gib(std::size_t bytes) { return static_cast<double>(bytes) / kGiB; }

// The run as `train` would resolve it, with the model inherited from init.* or from the run folder.
PlannedRun resolve(const std::string& file, const std::vector<std::string>& overrides) {
  Config config = parse_config(file, overrides);
  if (config.train.steps == 0 && config.train.tokens == 0) {  // a plan is for one step: the length does not matter
    config.train.steps = std::max({std::int64_t{1}, config.upcycle.at_step + 1, config.train.warmup_steps});
    config.train.warmup_tokens = 0;
  }
  // If the config saves but leaves checkpoint.dir to the command line, plan the snapshot too.
  const CheckpointConfig saves = config.checkpoint;
  const bool unnamed = saves.dir.empty() && (saves.every > 0 || saves.model_every > 0);
  if (unnamed) config.checkpoint = {};
  const Mesh one = make_single_mesh();
  const std::string name = file.empty() ? "the config" : file;
  PlannedRun run = planned_run(set_up_run(std::move(config), name, *one.world, Purpose::Plan));
  check_kernel_limits(run.config.device, run.config.model, name);
  if (unnamed) {
    run.config.checkpoint = saves;
    run.config.checkpoint.dir = "(not named yet)";
  }
  return run;
}

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

// Of a rank's part of its host: eight ranks on a server of two sockets with eight channels of DDR5-4800 each, two
// thirds of whose 614 GB/s can be reached.
constexpr double kHostRate = 50e9;

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
  fmt::print("per step: {} tokens; {} microbatch{} per rank\n\n", p.tokens, p.micro_batches,
             p.micro_batches == 1 ? "" : "es");
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

// What serving the config's model takes, of one rank.
int plan_serving(const std::string& file, const std::vector<std::string>& overrides, const ServingOptions& serving,
                 int world, int rank, bool json) {
  const Config config = parse_config(file, overrides);
  const std::string name = file.empty() ? "the config" : file;
  check_model(config.model, name);
  check_kernel_limits(config.device, config.model, name);
  const Layout layout = inference_layout(config.model, world, config.parallel, name);
  const WorkspaceBytes workspace = workspace_of(config);
  const DeviceKind computes = config.device == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu;
  const SchedulerOptions o = scheduler_options(serving, config.model, layout, config.storage(), computes,
                                               std::numeric_limits<std::int64_t>::max(), workspace);
  const std::vector<MemoryClass> memory =
      engine_memory(config.model, layout, rank, config.storage(), o, computes, workspace);
  std::size_t total = 0;
  for (const MemoryClass& m : memory) total += m.beside_gpu ? 0 : m.bytes;
  const std::size_t page = page_bytes(config.model, layout, config.storage(), o.page_rows);
  if (json) {
    Json j{{"world", layout.world}, {"rank", rank}, {"memory", Json::object()}, {"memory_total", total}};
    for (const MemoryClass& m : memory) j["memory"][m.name] = m.bytes;
    j["pages"] = o.pages;
    j["page_bytes"] = page;
    j["tokens_cached"] = o.pages * o.page_rows;
    j["max_model_len"] = o.max_model_len;
    j["max_num_seqs"] = o.max_num_seqs;
    j["max_num_batched_tokens"] = o.max_num_batched_tokens;
    fmt::print("{}\n", j.dump());
    return 0;
  }
  fmt::print("memory of rank {} of {} while it serves\n", rank, layout.world);
  for (const MemoryClass& m : memory)
    fmt::print("  {:<38}{:>14}{}\n", m.name, size_text(m.bytes), m.beside_gpu ? "  in host memory" : "");
  fmt::print("  {:<38}{:>14}\n", "total", size_text(total));
  fmt::print("the cache holds {} tokens in {} pages of {}: {} sequences of {}\n", o.pages * o.page_rows, o.pages,
             size_text(page), o.pages / ((o.max_model_len + o.page_rows - 1) / o.page_rows), o.max_model_len);
  return 0;
}

}  // namespace

int run_plan(const Arguments& arguments) {
  std::string file;
  std::int64_t world = 1, rank = 0, ranks_per_node = 0;
  std::string node_bytes;
  bool json = false, row = false, serve = false;
  ServingOptions serving;
  PlanRates rates{0.4, 989.4e12};
  double host_rate = kHostRate;
  std::vector<std::string> overrides;
  Options options(
      "plan",
      "What a training run needs on any number of ranks: memory by class, bytes of each collective, FLOPs, "
      "file sizes; with --serve, the memory that serving its model needs. Starts no MPI and computes nothing.");
  options.positional("config", file, "JSON config, as for train; or a study, as for compare", Need::Optional);
  options.option("--world", world, "ranks of the run");
  options.option("--rank", rank, "the rank that is planned; rank 0 holds the most");
  options.option("--ranks-per-node", ranks_per_node,
                 "ranks that share a machine's host memory; 0: at most 8 on GPUs, else all");
  options.option("--node-memory", node_bytes, "of one machine's host, like 1TiB or 900GB: says whether its ranks fit");
  options.flag(
      "--serve", serve,
      "plan serving the config's model instead, over its tp, ep and etp, with its dtype and device: no other key "
      "counts; the options from --policy on are for this");
  options.flag("--json", json, "print one JSON object; sizes in bytes");
  options.option("--mfu", rates.mfu, "of a study: the share of --peak that training reaches");
  options.option("--peak", rates.peak, "of a study: FLOP/s of one device; by default those of an H100 SXM, bf16");
  options.option("--host-rate", host_rate,
                 "with train.optimizer_offload: bytes/s that a rank's part of its host's memory moves; by default a "
                 "guess for eight ranks on a server of two sockets");
  options.flag("--row", row, "print one line of a Markdown table, as launch/plan_tables.sh does");
  add_serving_options(options, serving);
  options.config_overrides(overrides);
  if (!options.parse(arguments)) return 0;
  constexpr std::int64_t most = 1 << 24;
  if (world < 1 || world > most) input_error("command line: --world: found {}, expected 1 to {}", world, most);
  if (rank < 0 || rank >= world)
    input_error("command line: --rank: found {}, expected 0 to {}, as --world={}", rank, world - 1, world);
  if (!file.empty() && is_study(file)) {
    for (const char* name :
         {"--world", "--rank", "--ranks-per-node", "--node-memory", "--serve", "--row", "--host-rate"})
      if (options.given(name)) input_error("command line: found {} with a study, expected it absent", name);
    if (!(rates.mfu > 0 && rates.mfu <= 1) || !(rates.peak > 0))
      input_error("command line: --mfu and --peak: found {:g} and {:g}, expected (0, 1] and above 0", rates.mfu,
                  rates.peak);
    const Study study = read_study(file, overrides);
    print_study_plan(study, planned_runs(study), rates, json);
    return 0;
  }
  for (const char* name : {"--mfu", "--peak"})
    if (options.given(name)) input_error("command line: found {} without a study, expected both", name);
  if (serve) {
    for (const char* name : {"--row", "--host-rate", "--ranks-per-node", "--node-memory"})
      if (options.given(name)) input_error("command line: found {} with --serve, expected one of them", name);
    return plan_serving(file, overrides, serving, static_cast<int>(world), static_cast<int>(rank), json);
  }
  for (const char* name : {"--policy", "--max-num-seqs", "--max-num-batched-tokens", "--max-model-len", "--block-size"})
    if (options.given(name))
      input_error("command line: found {} without --serve, expected both: a training run has no use for it", name);
  const std::size_t memory = serving.memory.empty() ? 0 : parse_bytes("--memory", serving.memory);
  const PlannedRun run = resolve(file, overrides);
  const bool cuda = run.config.device == "cuda";
  if (!(host_rate > 0 && std::isfinite(host_rate)))
    input_error("command line: --host-rate: found {:g}, expected above 0, in bytes/s; e.g. 50e9", host_rate);
  if (options.given("--host-rate") && !offloads(run.config))
    input_error(
        "command line: found --host-rate, expected train.optimizer_offload and --device=cuda beside it: nothing else "
        "has a use for it");
  const Plan plan = make_plan(run, static_cast<int>(world), static_cast<int>(rank));
  if (options.given("--ranks-per-node") && ranks_per_node < 1)
    input_error("command line: --ranks-per-node: found {}, expected 1 to {}, as --world={}", ranks_per_node, world,
                world);
  const NodeMemory node =
      node_memory(plan, run.config, ranks_per_node, node_bytes.empty() ? 0 : parse_bytes("--node-memory", node_bytes));
  if (row) {
    print_row(plan, run.config, memory);
  } else if (json) {
    Json j = to_json(plan, memory, cuda, host_rate);
    j["host_memory"] = {{"ranks_per_node", node.ranks}, {"per_rank", node.per_rank}, {"per_node", node.total()}};
    if (node.given > 0) j["host_memory"].update({{"given", node.given}, {"fits", node.fits()}});
    j["recompute"] = to_json(recompute_costs(run, static_cast<int>(world), static_cast<int>(rank)));
    fmt::print("{}\n", j.dump());
  } else {
    print(plan, memory, run.config, host_rate);
    fmt::print("{}\n", text_of(node, cuda));
    print(recompute_costs(run, static_cast<int>(world), static_cast<int>(rank)));
  }
  return 0;
}

}  // namespace upcycle
