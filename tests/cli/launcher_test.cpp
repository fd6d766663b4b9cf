#include <algorithm>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// Ranks of a launcher that sets none of mpirun's variables, as `srun --mpi=pmix` does: MPI alone knows how many there
// are, and how many of them on this host.
namespace upcycle {
namespace {

// The binary with these arguments, without mpirun's variables.
Words without_variables(const Words& arguments) {
  Words words{"/usr/bin/env"};
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                           "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_NODE_RANK", "OMPI_UNIVERSE_SIZE"})
    words.insert(words.end(), {"-u", name});
  words.emplace_back(UPCYCLE_BINARY);
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

TEST(Launcher, RanksAreCountedByMpi) {
  const SmallRun small;
  const std::string config = small.write_config("run");
  expect_one_line(run_parts({{2, without_variables({"inspect", small.file("run")})}}),
                  {"found 2 ranks, expected one", "`upcycle inspect`"});
  expect_one_line(run_parts({{2, without_variables({"bench", "step", config, "--model.hidden_size=65536",
                                                    "--model.num_hidden_layers=1000"})}}),
                  {"memory: found", "needed by each of 2 ranks on this machine"});
}

// Found before MPI runs by a single rank, whichever it is: the others already wait.
TEST(Launcher, OneRanksCommandLineIsSaid) {
  const SmallRun small;
  const std::string config = small.write_config("run");
  const Part good{1, without_variables({"train", config})};
  const Part bad{1, without_variables({"train", config, "--no-such-option"})};
  const Part inspect{1, without_variables({"inspect", small.file("run")})};
  expect_one_line(run_parts({good, bad}), {"--no-such-option"});
  expect_one_line(run_parts({bad, good}), {"--no-such-option"});
  expect_one_line(run_parts({good, inspect}), {"found 2 ranks, expected one"});
}

TEST(Launcher, OneRankIsOneRank) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}});
  const Outcome o = run_parts({{1, without_variables({"inspect", run})}});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.out, run_upcycle({"inspect", run}).out);
  expect_one_line(run_parts({{1, without_variables({"inspect", small.file("none")})}}), {"none"});
}

// srun without PMIx: as many programs that know nothing of each other. A batch script's own variables count its
// allocation: a command started there by itself is one.
TEST(Launcher, SeparateProgramsOfSrunRunNoOneRankCommand) {
  const SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}});
  std::map<std::string, std::string> batch = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}};
  EXPECT_EQ(run_upcycle({"inspect", run}, batch).exit_code, 0);
  batch["SLURM_STEP_NUM_TASKS"] = "4";
  EXPECT_NE(one_line_error(run_upcycle({"inspect", run}, batch)).find("found 4 ranks, expected one"),
            std::string::npos);
  batch["SLURM_PROCID"] = "3";
  const Outcome other = run_upcycle({"inspect", run}, batch);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(other.err, "");
}

// Open MPI would print a page about the launcher that it was not built for.
TEST(Launcher, TasksOfSrunWithoutPmixAreSaidOrRunByThemselves) {
  const SmallRun small;
  const Words step{"bench", "step", small.write_config("run"), "--steps=1", "--warmup=0"};
  std::map<std::string, std::string> task = {{"SLURM_JOBID", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NODELIST", "here"}};
  const Outcome alone = run_upcycle(step, task);
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  task.insert({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}});
  EXPECT_NE(one_line_error(run_upcycle(step, task)).find("SLURM_NTASKS=4 but MPI has 1 rank"), std::string::npos);
  task["SLURM_PROCID"] = "3";
  const Outcome other = run_upcycle(step, task);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(other.err, "");
}

}  // namespace
}  // namespace upcycle
