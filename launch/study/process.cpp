#include "launch/study/process.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/check.h"
#include "data/files.h"

extern char** environ;

namespace upcycle {
namespace {

// A child that took these for its own would join a job that is not its own.
bool is_launchers(std::string_view variable) {
  for (const std::string_view start : {"PMIX_", "PMI_", "OMPI_COMM_WORLD_", "SLURM_PROCID="})
    if (variable.starts_with(start)) return true;
  return false;
}

std::vector<std::string> environment_of(const Command& command) {
  std::vector<std::string> variables;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string text = *v;
    if (!is_launchers(text) && !command.environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : command.environment) variables.push_back(name + "=" + value);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

FileDescriptor open_output(const std::string& path, int flags) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666), path);
  UPCYCLE_CHECK(file, "{}: cannot be opened for writing: {}", path, std::strerror(errno));
  return file;
}

}  // namespace

std::string command_line(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) {
    std::string quoted = word;
    if (word.empty() || word.find_first_of(" \t\n'\"\\$`&|;<>()*?[]{}#~!") != word.npos) {
      quoted = "'";
      for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
      quoted += '\'';
    }
    line += (line.empty() ? "" : " ") + quoted;
  }
  return line;
}

Child::Child(const Command& command) {
  const FileDescriptor log = open_output(command.log, O_APPEND);
  const FileDescriptor out = command.output.empty() ? FileDescriptor() : open_output(command.output, O_TRUNC);
  std::vector<std::string> words = command.words, variables = environment_of(command);
  const std::vector<char*> argv = pointers(words), environment = pointers(variables);
  const std::string failed = fmt::format("upcycle: cannot start {}\n", words.at(0));
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  UPCYCLE_CHECK(pid_ >= 0, "fork: {}", std::strerror(errno));
  if (pid_ > 0) {
    ::setpgid(pid_, pid_);  // by both: whoever comes first
    return;
  }
  // From here to exec only calls that are safe after fork: no allocation, no exception.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, command.dies_by);
  if (::getppid() != parent) ::_exit(126);  // it ended before the line above
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGUSR1, SIG_DFL);
  const int in = ::open("/dev/null", O_RDONLY);
  if (::dup2(in, 0) < 0 || ::dup2(out ? out.get() : log.get(), 1) < 0 || ::dup2(log.get(), 2) < 0) ::_exit(126);
  ::execvpe(argv[0], argv.data(), environment.data());
  if (::write(2, failed.data(), failed.size()) < 0) ::_exit(126);
  ::_exit(127);
}

Child::~Child() {
  if (ended()) return;
  ::kill(-pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

std::optional<int> Child::ended() {
  if (code_) return code_;
  int status = 0;
  pid_t found = 0;
  do {
    found = ::waitpid(pid_, &status, WNOHANG);
  } while (found < 0 && errno == EINTR);
  UPCYCLE_CHECK(found >= 0, "waitpid {}: {}", pid_, std::strerror(errno));
  if (found == pid_) code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return code_;
}

void Child::signal(int number) const {
  if (!code_) ::kill(pid_, number);
}

}  // namespace upcycle
