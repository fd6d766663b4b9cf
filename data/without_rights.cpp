#include "data/without_rights.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

constexpr rlim_t more_memory = rlim_t{1} << 30;
constexpr rlim_t seconds = 120;
constexpr char good = '+', refused = '-', failed = '!';  // the answer's first byte

void limit(int resource, rlim_t most) {
  rlimit now{};
  getrlimit(static_cast<__rlimit_resource>(resource), &now);
  now.rlim_cur = std::min(most, now.rlim_max);
  now.rlim_max = now.rlim_cur;
  setrlimit(static_cast<__rlimit_resource>(resource), &now);
}

// Memory that other processes see too: ranks of this machine, a GPU's registers.
void drop_shared_memory() {
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return;
  std::vector<std::pair<unsigned long, unsigned long>> shared;
  char line[8192];
  for (bool begins = true; std::fgets(line, sizeof line, maps) != nullptr;
       begins = std::strchr(line, '\n') != nullptr) {
    unsigned long from = 0, to = 0;
    char rights[5] = {};
    if (begins && std::sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3 && rights[3] == 's')
      shared.emplace_back(from, to);
  }
  std::fclose(maps);
  for (const auto& [from, to] : shared) munmap(reinterpret_cast<void*>(from), to - from);  // NOLINT
}

void close_all_but(int kept) {
#ifdef SYS_close_range
  if ((kept == 0 || syscall(SYS_close_range, 0, kept - 1, 0) == 0) && syscall(SYS_close_range, kept + 1, ~0U, 0) == 0)
    return;
#endif
  const long most = std::min<long>(sysconf(_SC_OPEN_MAX), 1 << 16);
  for (int i = 0; i < most; ++i)
    if (i != kept) close(i);
}

// Every other call of the kernel fails with EPERM. Opening is allowed for reading, writing to the pipe alone.
void allow_reading_alone(int pipe) {
#if defined(__x86_64__) || defined(__aarch64__)
#ifdef __x86_64__
  constexpr unsigned machine = AUDIT_ARCH_X86_64;
#else
  constexpr unsigned machine = AUDIT_ARCH_AARCH64;
#endif
  constexpr unsigned mode = O_ACCMODE | O_CREAT | O_TRUNC;
  std::vector<sock_filter> code;
  const auto add = [&](unsigned what, unsigned value, int yes, int no) {
    code.push_back(
        {static_cast<unsigned short>(what), static_cast<unsigned char>(yes), static_cast<unsigned char>(no), value});
  };
  const auto load = [&](std::size_t at) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(at), 0, 0); };
  const auto answer = [&](unsigned value) { add(BPF_RET | BPF_K, value, 0, 0); };
  constexpr std::size_t first = offsetof(seccomp_data, args), call = offsetof(seccomp_data, nr);
  constexpr unsigned no = SECCOMP_RET_ERRNO | EPERM;
  load(offsetof(seccomp_data, arch));
  add(BPF_JMP | BPF_JEQ | BPF_K, machine, 1, 0);
  answer(SECCOMP_RET_KILL);
  // The low half of an argument, little-endian; the high half of a descriptor or of flags is not looked at by the
  // kernel.
  const auto allow_if = [&](unsigned number, std::size_t argument, unsigned bits, unsigned value) {
    load(call);
    add(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 5);
    load(first + 8 * argument);
    add(BPF_ALU | BPF_AND | BPF_K, bits, 0, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    answer(SECCOMP_RET_ALLOW);
    answer(no);
  };
#ifdef __NR_open
  allow_if(__NR_open, 1, mode, O_RDONLY);
#endif
  allow_if(__NR_openat, 2, mode, O_RDONLY);
  allow_if(__NR_write, 0, ~0U, static_cast<unsigned>(pipe));
  load(call);
  for (const unsigned allowed :
       {__NR_read,         __NR_pread64,     __NR_readv,     __NR_preadv,   __NR_lseek,         __NR_close,
        __NR_fstat,        __NR_newfstatat,
#ifdef __NR_stat
        __NR_stat,         __NR_lstat,       __NR_access,    __NR_readlink,
#endif
        __NR_readlinkat,   __NR_faccessat,   __NR_getcwd,    __NR_brk,      __NR_mmap,          __NR_munmap,
        __NR_mremap,       __NR_mprotect,    __NR_madvise,   __NR_futex,    __NR_rt_sigaction,  __NR_rt_sigprocmask,
        __NR_rt_sigreturn, __NR_sigaltstack, __NR_getpid,    __NR_gettid,   __NR_clock_gettime, __NR_gettimeofday,
        __NR_sched_yield,  __NR_exit,        __NR_exit_group}) {
    add(BPF_JMP | BPF_JEQ | BPF_K, allowed, 0, 1);
    answer(SECCOMP_RET_ALLOW);
  }
  answer(no);
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);  // a kernel without it leaves the limits
#else
  (void)pipe;
#endif
}

void give_up_rights(int pipe) {
  for (const int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGXCPU}) std::signal(crash, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  close_all_but(pipe);
  drop_shared_memory();
  rlim_t pages = 0;
  if (std::FILE* const file = std::fopen("/proc/self/statm", "r")) {
    unsigned long mapped = 0;
    if (std::fscanf(file, "%lu", &mapped) == 1) pages = mapped;
    std::fclose(file);
  }
  limit(RLIMIT_AS, pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + more_memory);
  limit(RLIMIT_CPU, seconds);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  allow_reading_alone(pipe);
}

std::string answer_of(const std::function<std::string()>& work) {
  try {
    return good + work();
  } catch (const InputError& e) {
    return std::string(1, refused) + e.what();
  } catch (const std::exception& e) {
    return std::string(1, failed) + e.what();
  }
}

[[noreturn]] void be_the_copy(int pipe, const std::function<std::string()>& work) {
  give_up_rights(pipe);
  const std::string answer = answer_of(work);
  for (std::size_t done = 0; done < answer.size();) {
    const ssize_t n = ::write(pipe, answer.data() + done, answer.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) _exit(1);
    done += static_cast<std::size_t>(n);
  }
  _exit(0);
}

// Until the end, or one byte more than `most`.
std::string read_answer(int pipe, std::size_t most) {
  std::string answer;
  std::array<char, 1 << 16> block;
  while (answer.size() <= most) {
    const ssize_t n = ::read(pipe, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    answer.append(block.data(), static_cast<std::size_t>(n));
  }
  return answer;
}

// One line of what the copy said, which the file may have made it say.
std::string one_line(std::string text) {
  constexpr std::size_t most = 2000;
  if (text.size() > most) text = text.substr(0, most) + "...";
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return text;
}

}  // namespace

std::string without_rights(const std::string& what, std::size_t max_bytes, const std::function<std::string()>& work) {
  int ends[2];
  UPCYCLE_CHECK(pipe2(ends, O_CLOEXEC) == 0, "{}: no pipe: {}", what, std::strerror(errno));
  const pid_t copy = fork();
  if (copy == 0) be_the_copy(ends[1], work);
  const int why = errno;
  close(ends[1]);
  if (copy < 0) {
    close(ends[0]);
    UPCYCLE_CHECK(false, "{}: no process: {}", what, std::strerror(why));
  }
  const std::string answer = read_answer(ends[0], max_bytes + 1);
  close(ends[0]);
  const bool too_much = answer.size() > max_bytes + 1;
  if (too_much) kill(copy, SIGKILL);
  int status = 0;
  while (waitpid(copy, &status, 0) < 0 && errno == EINTR) {
  }
  if (too_much) input_error("{}: gave more than {} bytes; the file is damaged, or made to do harm", what, max_bytes);
  if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
    input_error(
        "{}: was ended after {} s of a processor, or for want of memory; the file is damaged, or made to do harm", what,
        seconds);
  if (WIFSIGNALED(status))
    input_error("{}: ended by signal {} ({}); the file is damaged, or made to do harm", what, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || answer.empty())
    input_error("{}: ended without an answer; the file is damaged, or made to do harm", what);
  if (answer[0] == good) return answer.substr(1);
  if (answer[0] == refused) throw InputError(one_line(answer.substr(1)));
  input_error("{}: {}; the file is damaged, or made to do harm", what, one_line(answer.substr(1)));
}

}  // namespace upcycle
