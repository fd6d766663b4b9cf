#include <fmt/core.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "core/config/config.h"
#include "core/config/describe.h"
#include "tests/cli/run_program.h"

namespace upcycle {
namespace {

std::size_t lines_of_ours(const std::string& text) {  // mpirun adds its own
  std::size_t count = 0;
  for (std::size_t at = text.find("upcycle: "); at != std::string::npos; at = text.find("upcycle: ", at + 1)) ++count;
  return count;
}

TEST(Frame, HelpAndVersion) {
  const Outcome help = run_upcycle({"help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_NE(help.out.find("tokenize"), std::string::npos);
  EXPECT_EQ(help.err, "");
  EXPECT_EQ(run_upcycle({"--help"}).out, help.out);
  EXPECT_EQ(run_upcycle({"-h"}).out, help.out);
  EXPECT_EQ(run_upcycle({"--version"}).out, "upcycle " UPCYCLE_VERSION "\n");
  EXPECT_EQ(run_upcycle({"help", "config"}).out, config_help());
  const Outcome command = run_upcycle({"help", "tokenize"});
  EXPECT_EQ(command.exit_code, 0);
  EXPECT_NE(command.out.find("--doc-separator"), std::string::npos);
  EXPECT_EQ(run_upcycle({"tokenize", "--help"}).out, command.out);
}

// libgomp prints its settings: when the program starts, and again when it has re-executed itself.
TEST(Frame, WaitingThreadsSpinForABoundedTimeUnlessToldOtherwise) {
  const auto spins = [](const std::string& policy, const std::string& count) {
    const Outcome o = run_upcycle({"--version"}, {{"OMP_DISPLAY_ENV", "VERBOSE"},
                                                  {"OMP_WAIT_POLICY", policy},
                                                  {"GOMP_SPINCOUNT", count},
                                                  {"OMP_NUM_THREADS", "1"}});
    EXPECT_EQ(o.out, "upcycle " UPCYCLE_VERSION "\n");
    const std::string key = "GOMP_SPINCOUNT = '";
    const std::size_t at = o.err.rfind(key);
    return at == std::string::npos ? o.err
                                   : o.err.substr(at + key.size(), o.err.find('\'', at + key.size()) - at - key.size());
  };
  EXPECT_EQ(spins("", ""), "3000");
  EXPECT_EQ(spins("passive", ""), "0");
  EXPECT_EQ(spins("", "77"), "77");
}

TEST(Frame, EveryListedCommandHasHelp) {
  const std::string usage = run_upcycle({"help"}).out;
  int commands = 0;
  for (std::size_t at = usage.find("\n  "); at != std::string::npos; at = usage.find("\n  ", at + 1)) {
    const std::string name = usage.substr(at + 3, usage.find(' ', at + 3) - at - 3);
    if (name == "help" || name.starts_with("--")) continue;
    const Outcome help = run_upcycle({"help", name});
    EXPECT_EQ(help.exit_code, 0) << name << help.err;
    EXPECT_NE(help.out.find("upcycle " + name), std::string::npos) << help.out;
    ++commands;
  }
  EXPECT_GE(commands, 1);
}

TEST(Frame, BadCommandLines) {
  EXPECT_EQ(one_line_error(run_upcycle({"tokenise"})), "upcycle: unknown command 'tokenise': did you mean 'tokenize'?");
  EXPECT_EQ(one_line_error(run_upcycle({"zzzzzzzz"})), "upcycle: unknown command 'zzzzzzzz': `upcycle help` lists all");
  one_line_error(run_upcycle({"two\nlines"}));
  one_line_error(run_upcycle({""}));
  EXPECT_NE(one_line_error(run_upcycle({})).find("`upcycle help`"), std::string::npos);
  one_line_error(run_upcycle({"help", "config", "train"}));
  EXPECT_NE(one_line_error(run_upcycle({"help", "tokenise"})).find("'tokenize'"), std::string::npos);
}

TEST(Frame, OnlyRank0Reports) {
  one_line_error(run_upcycle({"zzzzzzzz"}, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}}));
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    const Outcome other = run_upcycle({"zzzzzzzz"}, {{variable, "1"}});
    EXPECT_EQ(other.exit_code, 2);
    EXPECT_EQ(other.err, "") << variable;
  }
}

// srun without PMIx, whatever else it sets: each program finds itself alone, and MPI has ended when it says so.
TEST(Frame, SeparateProgramsOfSrun) {
  const std::map<std::string, std::string> slurm = {{"SLURM_NTASKS", "4"}, {"PMI_SIZE", "4"}};
  auto first = slurm, second = slurm;
  first["PMI_RANK"] = "0";
  second["PMI_RANK"] = "1";
  const std::string line = one_line_error(run_upcycle({"train"}, first));
  EXPECT_NE(line.find("srun started 4 separate programs"), std::string::npos) << line;
  const Outcome other = run_upcycle({"train"}, second);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(other.err, "");
}

TEST(Frame, OneRankCommandsRefuseSeveral) {
  const std::string line = one_line_error(
      run_upcycle({"tokenize", "--help"}, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}}));
  EXPECT_NE(line.find("found 4 ranks, expected one"), std::string::npos) << line;
}

TEST(Frame, OutputThatCannotBeWrittenIsAnError) {
  const Outcome full = run_program({UPCYCLE_BINARY, "help", "config"}, {}, "/dev/full");
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_NE(full.err.find("No space left on device"), std::string::npos) << full.err;
}

TEST(RunLocal, StartsRanksAndPassesTheExitCodeOn) {
  const std::string script = UPCYCLE_ROOT "/launch/run_local.sh";
  const std::map<std::string, std::string> with_binary{{"UPCYCLE_BINARY", UPCYCLE_BINARY}};
  const Outcome version = run_program({script, "-n", "3", "--version"}, with_binary);
  EXPECT_EQ(version.exit_code, 0) << version.err;
  EXPECT_EQ(std::count(version.out.begin(), version.out.end(), '\n'), 3) << version.out;

  const Outcome bad = run_program({script, "-n", "3", "zzzzzzzz"}, with_binary);
  EXPECT_EQ(bad.exit_code, 2) << bad.err;
  EXPECT_EQ(lines_of_ours(bad.err), 1u) << bad.err;

  EXPECT_EQ(run_program({script, "-n", "0", "help"}, with_binary).exit_code, 2);
  EXPECT_EQ(run_program({script, "help"}, with_binary).exit_code, 2);
  const Outcome missing = run_program({script, "-n", "1", "help"}, {{"UPCYCLE_BINARY", "/no/such/binary"}});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_NE(missing.err.find("/no/such/binary"), std::string::npos);
}

// tests/launch_endings.cpp, on `ranks` ranks.
Outcome end(const std::string& mode, const std::string& ranks) {
  return run_program({UPCYCLE_ROOT "/launch/run_local.sh", "-n", ranks, mode}, {{"UPCYCLE_BINARY", UPCYCLE_ENDINGS}});
}

TEST(RunWithRanks, WhatAllKnowIsOneLineOfRank0) {
  const Outcome o = end("agreed", "2");
  EXPECT_EQ(o.exit_code, 2) << o.err;
  EXPECT_EQ(lines_of_ours(o.err), 1u) << o.err;
  EXPECT_NE(o.err.find("upcycle: rank 1 on "), std::string::npos) << o.err;
  EXPECT_NE(o.err.find(": rank 1 finds no file\n"), std::string::npos) << o.err;
}

TEST(RunWithRanks, WhatOneRankKnowsEndsTheJob) {
  for (const auto& [mode, code, text] : {std::tuple{"alone", 2, "upcycle: rank 1 on "},
                                         std::tuple{"error", 1, "a broken invariant [session.size() == 0"},
                                         std::tuple{"other", 1, "upcycle: rank 1 on "}}) {
    const Outcome o = end(mode, "2");
    EXPECT_EQ(o.exit_code, code) << mode << ": " << o.err;
    EXPECT_EQ(lines_of_ours(o.err), 1u) << o.err;
    EXPECT_NE(o.err.find(text), std::string::npos) << o.err;
  }
}

// Without a launcher the line is not buried by MPI's explanation of how the program ended.
TEST(RunWithRanks, OneRankPrintsOneLine) {
  EXPECT_EQ(one_line_error(run_program({UPCYCLE_ENDINGS, "alone"})), "upcycle: only rank 0 knows");
  for (const char* mode : {"error", "other"}) {
    const Outcome o = run_program({UPCYCLE_ENDINGS, mode});
    EXPECT_EQ(o.exit_code, 1);
    EXPECT_EQ(o.out, "");
    EXPECT_TRUE(o.err.starts_with("upcycle: rank 0 on ")) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  }
  EXPECT_EQ(run_program({UPCYCLE_ENDINGS, "result"}, {{"OMP_NUM_THREADS", "1"}}).exit_code, 3);
}

// Other ranks print on until the job has ended.
TEST(RunLocal, TheLineThatEndsARunComesLast) {
  const Outcome o = end("noisy", "3");
  EXPECT_EQ(o.exit_code, 1);
  EXPECT_NE(o.err.find("rank 0 goes on\n"), std::string::npos) << o.err;
  EXPECT_EQ(lines_of_ours(o.err), 1u) << o.err;
  const std::size_t last = o.err.rfind('\n', o.err.size() - 2) + 1;
  EXPECT_EQ(o.err.compare(last, 18, "upcycle: rank 2 on"), 0) << o.err.substr(last > 2000 ? last - 2000 : 0);
}

// The line is printed even if the job does not end; everything else passes through unchanged.
TEST(RunLocal, TheLineDoesNotWaitForAJobThatHangs) {
  const std::string script = ::testing::TempDir() + fmt::format("run_local_test_{}", getpid());
  std::ofstream(script) << "#!/bin/sh\n"
                           "printf ' before  it\\n\\nupcycle: it broke\\nupcycle: twice\\nafter it\\n' >&2\n"
                           "sleep 7\n"
                           "printf 'much later\\nno end' >&2\n"
                           "exit 4\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  const Outcome o = run_program({UPCYCLE_ROOT "/launch/run_local.sh", "-n", "1", "any"}, {{"UPCYCLE_BINARY", script}});
  std::filesystem::remove(script);
  EXPECT_EQ(o.exit_code, 4);
  EXPECT_EQ(o.err, " before  it\n\nafter it\nupcycle: it broke\nupcycle: twice\nmuch later\nno end\n");
}

TEST(RunLocal, SharesTheCoresUnlessTold) {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  const Outcome shared = run_program({UPCYCLE_ROOT "/launch/run_local.sh", "-n", "2", ""},
                                     {{"UPCYCLE_BINARY", UPCYCLE_ENDINGS}, {"OMP_NUM_THREADS", ""}});
  EXPECT_EQ(shared.exit_code, 0) << shared.err;
  const std::string line = fmt::format("rank 1 has {} threads\n", std::max(1L, cores / 2));
  EXPECT_NE(shared.out.find(line), std::string::npos) << shared.out;
  const Outcome told = run_program({UPCYCLE_ROOT "/launch/run_local.sh", "-n", "2", ""},
                                   {{"UPCYCLE_BINARY", UPCYCLE_ENDINGS}, {"OMP_NUM_THREADS", "7"}});
  EXPECT_NE(told.out.find("rank 1 has 7 threads\n"), std::string::npos) << told.out;
}

}  // namespace
}  // namespace upcycle
