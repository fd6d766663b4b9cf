#include <fmt/core.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/config/parse.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "data/hdf5_library.h"
#include "launch/agree_on_start.h"
#include "launch/commands.h"
#include "launch/doctor_checks.h"
#include "launch/doctor_verdict.h"
#include "launch/gpu_facts.h"
#include "launch/options.h"
#include "launch/run_with_ranks.h"
#include "parallel/comm/mpi_library.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

struct Doctor {
  double seconds = 60, least_share = 0.5;
  std::string folder = ".";
  bool json = false;
};

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Seconds by which this rank's calendar is ahead of rank 0's; to the time that a barrier takes.
double clock_offset(Communicator& world) {
  world.barrier();
  const double mine = now();
  return mine - std::stod(world.broadcast_text(fmt::format("{:.6f}", mine), 0));
}

Json examine(const MpiSession& session, const Backend& backend, Communicator& world, const Config& config,
             const Doctor& doctor) {
  const ProcessorFacts processor = processor_facts();
  const HostMemory memory = host_memory();
  Json j{{"rank", session.rank()},
         {"host", session.host()},
         {"first_on_host", session.first_on_host()},
         {"device", config.device},
         {"processor", processor.name},
         {"instructions", processor.instructions},
         {"threads", omp_get_max_threads()},
         {"cores", omp_get_num_procs()},
         {"host_cores", sysconf(_SC_NPROCESSORS_ONLN)},
         {"ranks_on_host", session.ranks_on_host()},
         {"memory_bytes", memory_of(backend)},
         {"host_memory_bytes", memory.free},
         {"mpi", mpi_library()},
         {"hdf5", hdf5_library()},
         {"gpu", gpu_facts(backend)},
         {"clock_offset_s", clock_offset(world)}};
  const FolderCheck folder = check_folder(doctor.folder, world);
  j.update({{"file_system", folder.kind},
            {"file_system_free_bytes", folder.free},
            {"write_bytes_per_s", folder.write},
            {"folder_failure", folder.failure}});
  const ProductCheck products = check_products(backend, world, config.storage(), doctor.seconds / 2);
  j.update({{"product_flops", products.flops},
            {"product_sustained", products.sustained},
            {"products_right", products.right}});
  const ExchangeCheck exchange = check_exchange(backend, world, doctor.seconds / 2);
  j.update({{"all_to_all_bytes_per_s", exchange.all_to_all},
            {"link_bytes_per_s", exchange.alone},
            {"exchange_right", exchange.right}});
  return j;
}

void print_table(const std::vector<RankHealth>& ranks) {
  fmt::print(
      "| rank | host | threads | free GiB | GFLOP/s | sustained | link GB/s | all-to-all GB/s | writes MB/s | clock s "
      "| "
      "verdict |\n|--|--|--|--|--|--|--|--|--|--|--|\n");
  const auto rate = [&](double bytes_per_s) {  // one rank has no one to send to
    return ranks.size() > 1 ? fmt::format("{:.2f}", bytes_per_s / 1e9) : "-";
  };
  for (const RankHealth& r : ranks)
    fmt::print("| {} | {} | {} | {:.1f} | {:.0f} | {:.0f} % | {} | {} | {:.0f} | {:+.3f} | {} |\n", r.rank, r.host,
               r.threads, r.memory / (1 << 30), r.product_flops / 1e9, 100 * r.sustained, rate(r.link),
               rate(r.all_to_all), r.write / 1e6, r.clock_offset, r.verdict);
}

int doctor(const MpiSession& session, const std::string& file, const std::vector<std::string>& overrides,
           const Doctor& options) {
  Start start = agree_on_start(session, "doctor", [&] { return parse_config(file, overrides); });
  const Backend backend = make_backend(session, start.config);
  const Mesh mesh = make_backend_mesh(backend, session, start.layout);
  Communicator& world = *mesh.world;
  const Json mine = examine(session, backend, world, start.config, options);
  std::vector<Json> all;
  std::istringstream lines(world.gather_text(mine.dump() + "\n"));
  for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line));
  std::vector<RankHealth> ranks;
  for (const Json& j : all) ranks.push_back(health_of(j));
  const std::size_t ill = judge(ranks, options.least_share);
  if (session.rank() == 0) {
    for (std::size_t r = 0; r < ranks.size(); ++r) all[r]["verdict"] = ranks[r].verdict;
    if (options.json) {
      fmt::print("{}\n", Json{{"ranks", all}, {"ill", ill}}.dump());
    } else {
      const Json& first = all.front();
      fmt::print("{}; {}; {}, {}; {}\n", first["mpi"].get<std::string>(), first["hdf5"].get<std::string>(),
                 first["processor"].get<std::string>(), first["instructions"].get<std::string>(),
                 first["gpu"].get<std::string>());
      fmt::print("{}: {}, {:.0f} GiB free\n\n", options.folder, first["file_system"].get<std::string>(),
                 first["file_system_free_bytes"].get<double>() / (1 << 30));
      print_table(ranks);
      for (const std::string& note : differences(all)) fmt::print("note: {}\n", note);
      fmt::print("{}\n", ill == 0 ? "well: training can start"
                                  : fmt::format("ill: {} of {} ranks, see their verdicts", ill, ranks.size()));
    }
  }
  return ill == 0 ? 0 : 1;
}

}  // namespace

int run_doctor(const Arguments& arguments) {
  Doctor doctor_options;
  std::string file;
  std::vector<std::string> overrides;
  Options options("doctor",
                  "Is this machine fit to train on? What every rank runs on, and for --seconds matrix products and "
                  "exchanges between all ranks; a verdict for each, exit code 1 where training would fail or crawl.");
  options.positional("config", file, "JSON config, for device and dtype", Need::Optional);
  options.option("--seconds", doctor_options.seconds, "time for products and exchanges together");
  options.option("--folder", doctor_options.folder, "where runs will be saved, on all hosts");
  options.option("--least-share", doctor_options.least_share,
                 "a rank with less than this share of the median speed makes all others wait");
  options.flag("--json", doctor_options.json, "print one JSON object");
  options.config_overrides(overrides);
  options.example("launch/run_local.sh -n 2 doctor moe.json --seconds=10 --folder=runs",
                  "two ranks of this machine, with the run's device and dtype, for ten seconds");
  if (!options.parse(arguments)) return 0;
  if (!(doctor_options.seconds > 0))
    input_error("command line: --seconds: found {}, expected more than 0", doctor_options.seconds);
  if (!(doctor_options.least_share >= 0 && doctor_options.least_share <= 1))
    input_error("command line: --least-share: found {}, expected a number in [0, 1]", doctor_options.least_share);
  return run_with_ranks([&](const MpiSession& session) { return doctor(session, file, overrides, doctor_options); });
}

}  // namespace upcycle
