#include "launch/study/launcher.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace upcycle {
namespace {

enum class Way { Alone, Command, Srun, Mpirun };
Way way_of(const Study::Launch& launch) {
  if (!launch.command.empty()) return Way::Command;
  if (launch.ranks == 1) return Way::Alone;
  return std::getenv("SLURM_JOB_ID") != nullptr ? Way::Srun : Way::Mpirun;
}

std::int64_t cores() { return std::max<std::int64_t>(1, std::thread::hardware_concurrency()); }

void set_threads(Command& c, const Study::Launch& launch, std::int64_t ranks) {
  std::int64_t threads = launch.threads;
  // With launchers that know of several hosts a rank finds its part of the cores itself, unless runs share them.
  const Way way = way_of(launch);
  const bool here = way == Way::Alone || way == Way::Mpirun;
  if (threads == 0 && (here || launch.at_once > 1))
    threads = std::max<std::int64_t>(1, cores() / launch.at_once / ranks);
  if (threads > 0) c.environment["OMP_NUM_THREADS"] = fmt::format("{}", threads);
}

// In a job of SLURM with several tasks a program of one rank has to say that it is meant to be alone.
void set_alone(Command& c) {
  if (std::getenv("SLURM_NTASKS") != nullptr) c.environment["SLURM_NTASKS"] = "1";
}

// Each rank takes a GPU by its number among those that it sees: runs at the same time must see others.
void set_gpus(Command& c, const Study::Launch& launch, std::int64_t slot) {
  std::vector<std::string> all;
  if (const char* given = std::getenv("CUDA_VISIBLE_DEVICES"); given != nullptr && *given != '\0') {
    const std::string text = given;
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      all.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  std::string mine;
  for (std::int64_t i = slot * launch.ranks; i < (slot + 1) * launch.ranks; ++i) {
    const auto at = static_cast<std::size_t>(i);
    mine += (mine.empty() ? "" : ",") + (all.empty() ? fmt::format("{}", i) : at < all.size() ? all[at] : "none");
  }
  c.environment["CUDA_VISIBLE_DEVICES"] = mine;
}

}  // namespace

std::vector<std::string> words_on_ranks(const Launcher& l, const std::vector<std::string>& arguments) {
  const std::string ranks = fmt::format("{}", l.launch.ranks);
  std::vector<std::string> words;
  switch (way_of(l.launch)) {
    case Way::Alone:
      break;
    case Way::Command:
      for (std::string word : l.launch.command) {
        if (const std::size_t at = word.find("{ranks}"); at != word.npos) word.replace(at, 7, ranks);
        words.push_back(word);
      }
      break;
    case Way::Srun:  // not --kill-on-bad-exit: ranks that saved exit with 3 one after the other
      words = {"srun", "--mpi=pmix", "--wait=60", "--ntasks=" + ranks};
      if (l.launch.at_once > 1) words.emplace_back("--exact");
      break;
    case Way::Mpirun:  // mpirun passes SIGUSR1 on, perhaps before a rank is ready to catch it
      words = {"mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-n", ranks, "env", "--ignore-signal=USR1"};
      break;
  }
  words.push_back(l.program);
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

Command command_on_ranks(const Launcher& l, const std::vector<std::string>& arguments, const std::string& device,
                         std::int64_t slot) {
  Command c;
  c.words = words_on_ranks(l, arguments);
  const Way way = way_of(l.launch);
  if (way == Way::Alone)
    set_alone(c);
  else
    c.dies_by = SIGTERM;  // launchers then end their ranks
  if (way == Way::Mpirun) {
    if (::getuid() == 0)
      c.environment["OMPI_ALLOW_RUN_AS_ROOT"] = c.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
    // Waiting ranks give their core away where there are more of them than cores.
    if (l.launch.ranks * l.launch.at_once > cores()) c.environment["OMPI_MCA_mpi_yield_when_idle"] = "1";
  }
  set_threads(c, l.launch, l.launch.ranks);
  if (device == "cuda" && l.launch.at_once > 1) set_gpus(c, l.launch, slot);
  return c;
}

Command command_alone(const Launcher& l, const std::vector<std::string>& arguments) {
  Command c;
  c.words = {l.program};
  c.words.insert(c.words.end(), arguments.begin(), arguments.end());
  set_threads(c, l.launch, 1);
  set_alone(c);
  return c;
}

}  // namespace upcycle
