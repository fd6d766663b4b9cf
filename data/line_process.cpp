#include "data/line_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {

LineProcess::LineProcess(const std::vector<std::string>& words, const std::string& advice) : name_(words[0]) {
  // A pair of sockets, since a write to a pipe without reader would end this process by SIGPIPE.
  int ends[2];
  UPCYCLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "no sockets for {}: {}", name_,
                std::strerror(errno));
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const int failed = posix_spawnp(&child_, name_.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  socket_ = ends[0];
  if (failed == 0) return;
  close(socket_);
  input_error("{}: can not be started ({}); {}", name_, std::strerror(failed), advice);
}

LineProcess::~LineProcess() {
  close(socket_);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void LineProcess::send(const std::string& line) {
  const std::string bytes = line + '\n';
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::send(socket_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    UPCYCLE_CHECK(n >= 0, "{} has ended before it was asked: {}", name_, std::strerror(errno));
    done += static_cast<std::size_t>(n);
  }
}

std::string LineProcess::receive() {
  std::size_t end = received_.find('\n');
  while (end == std::string::npos) {
    char buffer[1 << 16];
    const ssize_t n = recv(socket_, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    UPCYCLE_CHECK(n > 0, "{} has ended without an answer", name_);
    const std::size_t before = received_.size();
    received_.append(buffer, static_cast<std::size_t>(n));
    end = received_.find('\n', before);
  }
  const std::string line = received_.substr(0, end);
  received_.erase(0, end + 1);
  return line;
}

}  // namespace upcycle
