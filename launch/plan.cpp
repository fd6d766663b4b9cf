#include "parallel/plan/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "launch/check_fits.h"
#include "launch/commands.h"
#include "launch/inference.h"
#include "launch/options.h"
#include "launch/plan_fit.h"
#include "launch/plan_node.h"
#include "launch/plan_print.h"
#include "launch/run_setup.h"
#include "launch/serving_options.h"
#include "launch/size_text.h"
#include "launch/slow_layout.h"
#include "launch/study/study_plan.h"
#include "parallel/plan/fewer_ranks.h"
#include "parallel/plan/recompute_costs.h"
#include "parallel/serve/engine.h"
#include "parallel/serve/engine_buffers.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

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

// One line, for scripts: how many ranks the run goes on with, and the keys of their layout.
int print_most_ranks(const PlannedRun& run, std::int64_t most, std::size_t memory) {
  const std::optional<Layout> found = layout_of_fewer_ranks(run, static_cast<int>(most), memory);
  if (!found)
    input_error(
        "command line: --most-ranks: found {}, expected enough for a layout {} with train.global_batch_size = {} and "
        "train.micro_batch_size = {}: there is none",
        most, memory == 0 ? "of this model" : "that --memory holds", run.config.train.global_batch_size,
        run.config.train.micro_batch_size);
  fmt::print("{} --parallel.tp={} --parallel.ep={} --parallel.etp={}\n", found->world, found->tp, found->ep,
             found->etp);
  return 0;
}

}  // namespace

int run_plan(const Arguments& arguments) {
  std::string file;
  std::int64_t world = 1, rank = 0, ranks_per_node = 0, most_ranks = 0;
  std::string node_bytes;
  bool json = false, row = false, serve = false, fit = false;
  ServingOptions serving;
  PlanRates rates{0.4, 989.4e12};
  double host_rate = kHostRate, network_rate = kNetworkRate;
  std::string machine;
  std::vector<std::string> overrides;
  Options options(
      "plan",
      "What a training run needs on any number of ranks: memory by class, bytes of each collective, FLOPs, "
      "file sizes; with --serve, the memory that serving its model needs. Starts no MPI and computes nothing.");
  options.positional("config", file, "JSON config, as for train; or a study, as for compare", Need::Optional);
  options.option("--world", world, "ranks of the run");
  options.option(
      "--most-ranks", most_ranks,
      "print with how many of at most so many ranks the run goes on, in the same order of data, and the keys "
      "of their layout, for scripts: tp, ep and etp stay where that uses more than half of them, else change "
      "as little as possible; with --memory it fits too");
  options.option("--rank", rank, "the rank that is planned; rank 0 holds the most");
  options.option("--ranks-per-node", ranks_per_node,
                 "ranks that share a machine's host memory; 0: at most 8 on GPUs, else all");
  options.option("--node-memory", node_bytes, "of one machine's host, like 1TiB or 900GB: says whether its ranks fit");
  options.flag(
      "--serve", serve,
      "plan serving the config's model instead, over its tp, ep and etp, with its dtype and device: no other key "
      "counts; the options from --policy on are for this");
  options.flag("--fit", fit,
               "plan every layout of --world ranks instead: which fit --memory, the fastest first, why others do not, "
               "and what would fit where none does");
  options.option("--machine", machine, "with --fit: a machine file, as of bench calibrate; by default an H100 SXM");
  options.option("--network", network_rate,
                 "with --fit: bytes/s of a rank between machines; by default 400 Gbit/s for each");
  options.flag("--json", json, "print one JSON object; sizes in bytes");
  options.option("--mfu", rates.mfu, "with --fit, or of a study: the share of --peak that training reaches");
  options.option("--peak", rates.peak,
                 "with --fit, or of a study: FLOP/s of one device; by default those of an H100 SXM, bf16");
  options.option("--host-rate", host_rate,
                 "with train.optimizer_offload: bytes/s that a rank's part of its host's memory moves; by default a "
                 "guess for eight ranks on a server of two sockets");
  options.flag("--row", row, "print one line of a Markdown table, as launch/plan_tables.sh does");
  add_serving_options(options, serving);
  options.config_overrides(overrides);
  options.example("upcycle plan moe.json --world=64 --parallel.tp=8 --parallel.ep=8 --memory=80GiB",
                  "memory by class and traffic of one rank, and whether it fits");
  options.example("upcycle plan moe.json --fit --world=64 --memory=80GiB --device=cuda",
                  "every layout that fits, the fastest first");
  if (!options.parse(arguments)) return 0;
  constexpr std::int64_t most = 1 << 24;
  if (world < 1 || world > most) input_error("command line: --world: found {}, expected 1 to {}", world, most);
  if (rank < 0 || rank >= world)
    input_error("command line: --rank: found {}, expected 0 to {}, as --world={}", rank, world - 1, world);
  if (!(rates.mfu > 0 && rates.mfu <= 1) || !(rates.peak > 0 && std::isfinite(rates.peak)))
    input_error("command line: --mfu and --peak: found {:g} and {:g}, expected (0, 1] and above 0", rates.mfu,
                rates.peak);
  if (!file.empty() && is_study(file)) {
    for (const char* name : {"--world", "--most-ranks", "--rank", "--ranks-per-node", "--node-memory", "--serve",
                             "--row", "--host-rate", "--fit", "--machine", "--network"})
      if (options.given(name)) input_error("command line: found {} with a study, expected it absent", name);
    const Study study = read_study(file, overrides);
    print_study_plan(study, planned_runs(study), rates, json);
    return 0;
  }
  for (const char* name : {"--mfu", "--peak"})
    if (options.given(name) && !fit)
      input_error("command line: found {} without --fit or a study, expected one of them", name);
  for (const char* name : {"--machine", "--network"})
    if (options.given(name) && !fit) input_error("command line: found {} without --fit, expected both", name);
  if (serve) {
    for (const char* name : {"--row", "--host-rate", "--ranks-per-node", "--node-memory", "--fit", "--most-ranks"})
      if (options.given(name)) input_error("command line: found {} with --serve, expected one of them", name);
    return plan_serving(file, overrides, serving, static_cast<int>(world), static_cast<int>(rank), json);
  }
  for (const char* name : {"--policy", "--max-num-seqs", "--max-num-batched-tokens", "--max-model-len", "--block-size"})
    if (options.given(name))
      input_error("command line: found {} without --serve, expected both: a training run has no use for it", name);
  const std::size_t memory = serving.memory.empty() ? 0 : parse_bytes("--memory", serving.memory);
  if (options.given("--most-ranks")) {
    if (most_ranks < 1 || most_ranks > most)
      input_error("command line: --most-ranks: found {}, expected 1 to {}", most_ranks, most);
    for (const char* name : {"--world", "--rank", "--ranks-per-node", "--node-memory", "--row", "--host-rate", "--fit",
                             "--machine", "--network", "--json"})
      if (options.given(name)) input_error("command line: found {} with --most-ranks, expected one of them", name);
  }
  const PlannedRun run = resolve(file, overrides);
  if (options.given("--most-ranks")) return print_most_ranks(run, most_ranks, memory);
  const bool cuda = run.config.device == "cuda";
  if (!(host_rate > 0 && std::isfinite(host_rate)))
    input_error("command line: --host-rate: found {:g}, expected above 0, in bytes/s; e.g. 50e9", host_rate);
  if (options.given("--host-rate") && !fit && !offloads(run.config))
    input_error(
        "command line: found --host-rate, expected train.optimizer_offload and --device=cuda beside it: nothing else "
        "has a use for it");
  if (options.given("--ranks-per-node") && ranks_per_node < 1)
    input_error("command line: --ranks-per-node: found {}, expected 1 to {}, as --world={}", ranks_per_node, world,
                world);
  NamedRates step_rates =
      machine.empty() ? rates_of_h100(rates.mfu * rates.peak) : rates_of(machine, run.config.storage());
  step_rates.rates.network = network_rate;
  step_rates.rates.host = host_rate;
  step_rates.rates.ranks_per_machine = static_cast<int>(ranks_of_node(world, run.config, ranks_per_node));
  if (fit) {
    for (const char* name : {"--row", "--rank", "--node-memory"})
      if (options.given(name)) input_error("command line: found {} with --fit, expected one of them", name);
    if (memory == 0) input_error("command line: found --fit without --memory, expected what one rank has; e.g. 80GiB");
    if (!(network_rate > 0 && std::isfinite(network_rate)))
      input_error("command line: --network: found {:g}, expected above 0, in bytes/s; e.g. 50e9", network_rate);
    for (const char* name : {"--mfu", "--peak"})
      if (options.given(name) && !machine.empty())
        input_error("command line: found {} and --machine, expected one of them", name);
    print_fit(run, {static_cast<int>(world), memory}, step_rates, json);
    return 0;
  }
  const Plan plan = make_plan(run, static_cast<int>(world), static_cast<int>(rank));
  const NodeMemory node =
      node_memory(plan, run.config, ranks_per_node, node_bytes.empty() ? 0 : parse_bytes("--node-memory", node_bytes));
  if (row) {
    print_row(plan, run.config, memory);
  } else if (json) {
    Json j = to_json(plan, memory, cuda, host_rate);
    j["slow"] = slow_layout(plan, step_rates.rates, cuda);
    j["host_memory"] = {{"ranks_per_node", node.ranks}, {"per_rank", node.per_rank}, {"per_node", node.total()}};
    if (node.given > 0) j["host_memory"].update({{"given", node.given}, {"fits", node.fits()}});
    j["recompute"] = to_json(recompute_costs(run, static_cast<int>(world), static_cast<int>(rank)));
    fmt::print("{}\n", j.dump());
  } else {
    print(plan, memory, run.config, host_rate);
    fmt::print("{}\n", text_of(node, cuda));
    for (const std::string& note : slow_layout(plan, step_rates.rates, cuda)) fmt::print("slow: {}\n", note);
    print(recompute_costs(run, static_cast<int>(world), static_cast<int>(rank)));
  }
  return 0;
}

}  // namespace upcycle
