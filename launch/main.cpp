#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "core/abort.h"
#include "core/check.h"
#include "core/config/config.h"
#include "core/config/describe.h"
#include "core/error.h"
#include "core/log.h"
#include "core/path_error.h"
#include "core/suggest.h"
#include "launch/bound_spinning.h"
#include "launch/command_table.h"
#include "launch/completion.h"
#include "launch/man_page.h"
#include "launch/nvtx_sink.h"
#include "launch/run_with_ranks.h"
#include "launch/study/study_help.h"
#include "parallel/comm/agree.h"
#include "parallel/comm/mesh.h"

namespace upcycle {
namespace {

void print_usage() {
  fmt::print("usage: upcycle COMMAND [ARGUMENTS] [--CONFIG.KEY=VALUE ...]\n\n");
  for (const Command& c : all_commands()) fmt::print("  {:<10} {}\n", c.name, c.summary);
  fmt::print(
      "\n  help COMMAND     its arguments\n  help config      every key of the JSON config, with its default\n"
      "  help study       every key of study.json\n"
      "  help man         all of this as a manual page: upcycle help man >upcycle.1 && man ./upcycle.1\n"
      "  help completion  for bash: source <(upcycle help completion)\n"
      "  --version\n");
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names{"help"};
  for (const Command& c : all_commands()) {
    if (name == c.name) return c;
    names.emplace_back(c.name);
  }
  const std::string near = nearest(name, names);
  if (!near.empty()) input_error("unknown command {}: did you mean '{}'?", quote_text(name), near);
  input_error("unknown command {}: `upcycle help` lists all", quote_text(name));
}

int run_help(const Arguments& topics) {
  if (topics.empty()) {
    print_usage();
  } else if (topics.size() > 1) {
    input_error("command line: found {} topics, expected one: `upcycle help COMMAND`", topics.size());
  } else if (topics[0] == "config") {
    fmt::print("{}", config_help());
  } else if (topics[0] == "study") {
    fmt::print("{}", study_help());
  } else if (topics[0] == "man") {
    fmt::print("{}", man_page());
  } else if (topics[0] == "completion") {
    fmt::print("{}", bash_completion());
  } else if (topics[0] == "help") {
    print_usage();
  } else {
    return find_command(topics[0]).run({"--help"});
  }
  return 0;
}

int run(const std::vector<std::string>& words) {
  if (words.empty()) input_error("command line: found no command, expected one: `upcycle help` lists all");
  const Arguments arguments(words.begin() + 1, words.end());
  if (words[0] == "--version") {
    fmt::print("upcycle {}\n", version);
    return 0;
  }
  if (words[0] == "help" || words[0] == "--help" || words[0] == "-h") return run_help(arguments);
  const Command& command = find_command(words[0]);
  if (command.ranks == Ranks::One) return run_alone(command.name, [&] { return command.run(arguments); });
  return command.run(arguments);
}

// Reports a command line that was refused before MPI started. Each rank knows only its own: the others may already wait
// in the agreement with which every multi-rank command begins (agree_on_start). This is that agreement.
int refuse(const InputError& e) {
  const LaunchedAs launched = launched_as();
  if (launched.in_mpi_job)
    return run_with_ranks([&](const MpiSession& session) {
      const auto stream = make_cpu_device()->make_stream();
      const auto start = make_start_group(session, *stream);
      agree_or_throw(*start, [&] { throw e; });
      return 2;
    });
  if (launched.rank == 0) print_input_error(e.what());
  return 2;
}

}  // namespace
}  // namespace upcycle

int main(int argc, char** argv) {
  using namespace upcycle;
  bound_spinning(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // a write past the limit on file sizes fails instead, and says so
  const int rank = launched_as().rank;
  set_log_rank(rank);
  const std::unique_ptr<TraceSink> profiler = make_nvtx_sink();
  set_trace_sink(profiler.get());
  try {
    const int code =
        with_path_errors([&] { return run(std::vector<std::string>(argv + std::min(argc, 1), argv + argc)); });
    // A result that could not be written (a full disk, a closed pipe) is not a success.
    UPCYCLE_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "standard output can not be written: {}",
                  std::strerror(errno));
    return code;
  } catch (const AgreedError& e) {
    if (rank == 0) print_input_error(e.what());
    return 2;
  } catch (const InputError& e) {
    return refuse(e);
  } catch (const Error& e) {
    abort_job(e.what());
  } catch (const std::exception& e) {
    abort_job(fmt::format("rank {}: {}", rank, e.what()));
  }
}
