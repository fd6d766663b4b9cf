#pragma once
#include <string>
#include <vector>

#include "launch/study/process.h"
#include "launch/study/study.h"

namespace upcycle {

// How the commands of a study are started here.
struct Launcher {
  std::string program;  // our own binary
  Study::Launch launch;
};

// `arguments` of the program over the ranks of a run: the program itself for one, else with study.launch.command, else
// with srun in a job of SLURM (as launch/train.sbatch does), else with mpirun (as launch/run_local.sh does).
std::vector<std::string> words_on_ranks(const Launcher& l, const std::vector<std::string>& arguments);

// The same as a command, with the threads of a rank in its environment and, for runs that compute on GPUs at the same
// time, which of the GPUs it sees. `slot`: which of the launch.at_once runs it is, from 0.
Command command_on_ranks(const Launcher& l, const std::vector<std::string>& arguments, const std::string& device,
                         std::int64_t slot);
// The program itself, with all cores of a run.
Command command_alone(const Launcher& l, const std::vector<std::string>& arguments);

}  // namespace upcycle
