#include "launch/run_with_ranks.h"

#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "core/abort.h"
#include "core/error.h"
#include "core/log.h"
#include "core/path_error.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/mesh.h"

namespace upcycle {
namespace {

// Launchers put rank and size in different variables; the first one that is set is used.
int first_number(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* text = std::getenv(name); text != nullptr && *text != '\0') return std::atoi(text);
  return otherwise;
}

// By default OpenMP would use every core that it sees for each rank.
void set_threads(const MpiSession& session) {
  if (session.size() == 1) return;
  const char* given = std::getenv("OMP_NUM_THREADS");
  if (given == nullptr || *given == '\0') omp_set_num_threads(session.threads());
  log_info("{} ranks, {} on this host; threads of a rank: {} ({})", session.size(), session.ranks_on_host(),
           omp_get_max_threads(),
           given == nullptr || *given == '\0' ? "its part of the cores; OMP_NUM_THREADS sets another number"
                                              : "OMP_NUM_THREADS");
}

}  // namespace

LaunchedAs launched_as() {
  LaunchedAs l;
  l.rank = first_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}, 0);
  // SLURM_NTASKS is left out: in a batch script it counts the allocation, not this program's copies.
  l.counted = first_number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 0);
  l.in_mpi_job = l.counted != 1 && std::getenv("PMIX_NAMESPACE") != nullptr;
  return l;
}

int run_alone(const char* command, const std::function<int()>& body) {
  const auto refuse = [&](int ranks) {
    if (ranks > 1)
      throw AgreedError(fmt::format(
          "command line: found {} ranks, expected one: start `upcycle {}` without mpirun or srun", ranks, command));
  };
  const LaunchedAs launched = launched_as();
  if (!launched.in_mpi_job) {
    refuse(launched.counted);  // separate processes, which would all do the same
    return body();
  }
  return run_with_ranks([&](const MpiSession& session) {
    const auto stream = make_cpu_device()->make_stream();
    const auto start = make_start_group(session, *stream);
    agree_or_throw(*start, [&] { refuse(session.size()); });  // other ranks may have been started with another command
    return body();
  });
}

void print_input_error(const char* message) {
  std::fflush(stdout);
  std::fprintf(stderr, "upcycle: %s\n", message);
}

int run_with_ranks(const std::function<int(const MpiSession&)>& body) {
  const MpiSession session(nullptr, nullptr);
  try {
    set_threads(session);
    return with_path_errors([&] { return body(session); });
  } catch (const AgreedError& e) {
    if (session.rank() == 0) print_input_error(e.what());
    return 2;
  } catch (const InputError& e) {
    if (session.size() == 1) {
      print_input_error(e.what());
      return 2;
    }
    print_input_error(fmt::format("rank {} on {}: {}", session.rank(), session.host(), e.what()).c_str());
    abort_all(2);
  } catch (const Error& e) {
    abort_job(e.what());  // says its rank and host itself
  } catch (const std::exception& e) {
    abort_job(fmt::format("rank {} on {}: {}", session.rank(), session.host(), e.what()));
  }
}

}  // namespace upcycle
