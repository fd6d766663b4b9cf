#include "tests/cli/run_program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/check.h"

namespace upcycle {
namespace {

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace

Started::Started(const std::vector<std::string>& words, const std::map<std::string, std::string>& environment,
                 const std::string& out_file) {
  static int count = 0;
  const std::string base = ::testing::TempDir() + fmt::format("run_program_{}_{}", getpid(), count++);
  out_path_ = out_file.empty() ? base + ".out" : out_file;
  err_path_ = base + ".err";
  keep_out_ = !out_file.empty();
  std::vector<char*> argv;
  for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
  argv.push_back(nullptr);
  child_ = fork();
  UPCYCLE_CHECK(child_ >= 0, "fork");
  if (child_ != 0) return;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
                           "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "PMIX_NAMESPACE"})
    unsetenv(name);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  const int out = open(out_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err = open(err_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (out < 0 || err < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
  execv(argv[0], argv.data());
  _exit(127);
}

Started::~Started() {
  if (child_ < 0) return;
  kill();
  finish();
}

void Started::terminate() const { signal(SIGTERM); }

void Started::signal(int number) const { UPCYCLE_CHECK(::kill(child_, number) == 0, "kill"); }

bool Started::handles(int number) const {
  for (int i = 0; i < 3000; ++i) {
    std::ifstream status(fmt::format("/proc/{}/status", child_));
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("SigCgt:") && (std::stoull(line.substr(7), nullptr, 16) >> (number - 1) & 1) != 0)
        return true;
    usleep(10000);
  }
  return false;
}

void Started::kill() const { UPCYCLE_CHECK(::kill(child_, SIGKILL) == 0, "kill"); }

Outcome Started::finish() {
  int status = 0;
  UPCYCLE_CHECK(waitpid(child_, &status, 0) == child_, "waitpid");
  child_ = -1;
  Outcome outcome;
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.err = text_of(err_path_);
  std::filesystem::remove(err_path_);
  if (!keep_out_) {
    outcome.out = text_of(out_path_);
    std::filesystem::remove(out_path_);
  }
  return outcome;
}

Outcome run_program(const std::vector<std::string>& words, const std::map<std::string, std::string>& environment,
                    const std::string& out_file) {
  return Started(words, environment, out_file).finish();
}

Outcome run_upcycle(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& environment) {
  std::vector<std::string> words{UPCYCLE_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_program(words, environment);
}

std::string one_line_error(const Outcome& outcome) {
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(outcome.err.starts_with("upcycle: ")) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  return outcome.err.substr(0, outcome.err.find('\n'));
}

}  // namespace upcycle
