#include "data/line_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

// The last line of a file that is not blank, of its last kilobytes.
std::string last_line(int file) {
  char buffer[4096];
  const off_t size = lseek(file, 0, SEEK_END);
  const ssize_t n = pread(file, buffer, sizeof buffer, std::max<off_t>(0, size - static_cast<off_t>(sizeof buffer)));
  std::string text(buffer, static_cast<std::size_t>(std::max<ssize_t>(0, n)));
  text.erase(text.find_last_not_of(" \r\n") + 1);
  return text.substr(text.find_last_of('\n') + 1);
}

}  // namespace

LineProcess::LineProcess(const std::vector<std::string>& words, const std::string& advice)
    : name_(words[0]), advice_(advice) {
  // A pair of sockets, since a write to a pipe without reader would end this process by SIGPIPE.
  int ends[2];
  UPCYCLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "no sockets for {}: {}", name_,
                std::strerror(errno));
  errors_ = memfd_create("standard error", MFD_CLOEXEC);
  UPCYCLE_CHECK(errors_ >= 0, "no memory for what {} says: {}", name_, std::strerror(errno));
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors_, STDERR_FILENO);
  const int failed = posix_spawnp(&child_, name_.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  socket_ = ends[0];
  if (failed == 0) return;
  close(socket_);
  close(errors_);
  input_error("{}: can not be started ({}); {}", name_, std::strerror(failed), advice);
}

LineProcess::~LineProcess() {
  close(socket_);
  close(errors_);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void LineProcess::fail(const std::string& what) const {
  const std::string said = last_line(errors_);
  input_error("{}: {}{}; {}", name_, what, said.empty() ? "" : " and said " + quote_text(said), advice_);
}

void LineProcess::send(const std::string& line) {
  const std::string bytes = line + '\n';
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::send(socket_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("ended before it was asked");
    done += static_cast<std::size_t>(n);
  }
}

void LineProcess::receive_more() {
  char buffer[1 << 16];
  ssize_t n;
  do n = recv(socket_, buffer, sizeof buffer, 0);
  while (n < 0 && errno == EINTR);
  if (n <= 0) fail("ended without an answer");
  received_.append(buffer, static_cast<std::size_t>(n));
}

std::string LineProcess::receive() {
  std::size_t end = received_.find('\n');
  while (end == std::string::npos) {
    const std::size_t before = received_.size();
    receive_more();
    end = received_.find('\n', before);
  }
  const std::string line = received_.substr(0, end);
  received_.erase(0, end + 1);
  return line;
}

std::string LineProcess::receive_bytes(std::size_t count) {
  while (received_.size() < count) receive_more();
  std::string bytes = received_.substr(0, count);
  received_.erase(0, count);
  return bytes;
}

}  // namespace upcycle
