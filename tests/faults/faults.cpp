#include "tests/faults/faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

enum class What { Nothing, Fail, KillBefore, KillAfter, KillHalf, KillLater };

struct Fault {
  std::string operation = "change", path, log;
  int call = 1, code = 0, microseconds = 0;
  bool always = false;
  What what = What::Nothing;
  int calls = 0, done = 0;
};

std::mutex& mutex() {
  static auto* const m = new std::mutex;  // other libraries write after this one's destructors
  return *m;
}
std::vector<Fault>& faults() {
  static auto* const f = new std::vector<Fault>;
  return *f;
}

pid_t armed_by = 0;

int own_rank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return rank == nullptr ? 0 : std::atoi(rank);
}

[[noreturn]] void refuse(const std::string& word) {
  std::fprintf(stderr, "UPCYCLE_FAULT: found %s\n", word.c_str());
  std::abort();
}

void set_fault(Fault& f, const std::string& value) {
  const std::map<std::string, What> kills = {
      {"kill_before", What::KillBefore}, {"kill_after", What::KillAfter}, {"kill_half", What::KillHalf}};
  const std::map<std::string, int> codes = {
      {"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EACCES", EACCES}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}};
  const std::string later = "kill_later:";
  if (const auto kill = kills.find(value); kill != kills.end()) {
    f.what = kill->second;
  } else if (const auto code = codes.find(value); code != codes.end()) {
    f.what = What::Fail;
    f.code = code->second;
  } else if (value.starts_with(later)) {
    f.what = What::KillLater;
    f.microseconds = std::atoi(value.c_str() + later.size());
  } else if (value != "none") {
    refuse(value);
  }
}

// Adds the fault of one line, unless it is another rank's.
void add(std::vector<Fault>& all, const std::string& words) {
  Fault f;
  bool own = true;
  const std::size_t path = words.find("path=");
  if (path == words.npos) refuse(words);
  f.path = words.substr(path + 5);
  std::istringstream in(words.substr(0, path));
  for (std::string word; in >> word;) {
    const std::size_t sign = word.find('=');
    const std::string name = word.substr(0, sign), value = sign == word.npos ? "" : word.substr(sign + 1);
    if (name == "rank") {
      own = std::atoi(value.c_str()) == own_rank();
    } else if (name == "operation") {
      f.operation = value;
    } else if (name == "call") {
      f.call = std::atoi(value.c_str());
    } else if (name == "times") {
      f.always = value == "always";
    } else if (name == "log") {
      f.log = value;
    } else if (name == "fault") {
      set_fault(f, value);
    } else {
      refuse(word);
    }
  }
  if (own) all.push_back(f);
}

struct AtStart {
  AtStart() {
    const char* words = std::getenv("UPCYCLE_FAULT");
    if (words != nullptr) upcycle_arm_fault(words);
  }
} at_start;

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  while (true) ::pause();
}

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

std::string path_of(int descriptor) {
  char text[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t n = ::readlink(link.c_str(), text, sizeof text);
  return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : "";
}

std::string path_at(int folder, const char* name) {
  if (name == nullptr || *name == '/') return name == nullptr ? "" : name;
  if (folder != AT_FDCWD) return path_of(folder) + "/" + name;
  char text[4096];
  return ::getcwd(text, sizeof text) == nullptr ? name : std::string(text) + "/" + name;
}

// What this fault does to the call; it is counted.
What meet(Fault& f, const char* operation, const std::string& path) {
  const bool change = std::strcmp(operation, "open") != 0 && std::strcmp(operation, "close") != 0;
  if (!path.starts_with(f.path) || !(f.operation == operation || (f.operation == "change" && change)))
    return What::Nothing;
  ++f.calls;
  if (!f.log.empty()) {
    const std::string line = std::to_string(own_rank()) + " " + operation + " " + path + "\n";
    const long out = ::syscall(SYS_openat, AT_FDCWD, f.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    ::syscall(SYS_write, out, line.data(), line.size());
    ::syscall(SYS_close, out);
  }
  if (f.what == What::Nothing || (f.always ? f.calls < f.call : f.calls != f.call)) return What::Nothing;
  ++f.done;
  if (f.what == What::KillLater)
    std::thread([microseconds = f.microseconds] {
      ::usleep(static_cast<useconds_t>(microseconds));
      die();
    }).detach();
  return f.what;
}

// What is to happen to this call: what the first fault says that has something to say.
What meet(const char* operation, const std::string& path, int& code) {
  // Not in a forked copy (data/without_rights.h): what comes there, this process would not know.
  if (::getpid() != armed_by) return What::Nothing;
  const int kept = errno;
  What what = What::Nothing;
  const std::lock_guard lock(mutex());
  for (Fault& f : faults()) {
    const What one = meet(f, operation, path);
    if (what != What::Nothing || one == What::Nothing) continue;
    what = one;
    code = f.code;
  }
  errno = kept;
  return what;
}

// Makes the call, or fails, or dies. `half`: the call with half its bytes, where it has any.
template <class Call, class Half>
auto pass(const char* operation, const std::string& path, const Call& call, const Half& half) -> decltype(call()) {
  int code = 0;
  const What what = meet(operation, path, code);
  if (what == What::KillBefore) die();
  if (what == What::Fail) {
    errno = code;
    return -1;
  }
  if (what == What::KillHalf) {
    half();
    die();
  }
  const auto result = call();
  if (what == What::KillAfter) die();
  return result;
}
template <class Call>
auto pass(const char* operation, const std::string& path, const Call& call) -> decltype(call()) {
  return pass(operation, path, call, call);
}

bool quiet() {
  const std::lock_guard lock(mutex());
  return faults().empty();
}

int open_as(const char* symbol, const char* path, int flags, mode_t mode) {
  const auto real = next<int (*)(const char*, int, ...)>(symbol);
  if (quiet()) return real(path, flags, mode);
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
  return pass(writes ? "create" : "open", path_at(AT_FDCWD, path), [&] { return real(path, flags, mode); });
}

int openat_as(const char* symbol, int folder, const char* path, int flags, mode_t mode) {
  const auto real = next<int (*)(int, const char*, int, ...)>(symbol);
  if (quiet()) return real(folder, path, flags, mode);
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
  return pass(writes ? "create" : "open", path_at(folder, path), [&] { return real(folder, path, flags, mode); });
}

ssize_t pwrite_as(const char* symbol, int file, const void* data, size_t bytes, off_t at) {
  const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>(symbol);
  if (quiet()) return real(file, data, bytes, at);
  return pass(
      "write", path_of(file), [&] { return real(file, data, bytes, at); },
      [&] { return real(file, data, bytes / 2, at); });
}

mode_t mode_of(int flags, va_list list) { return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0; }

}  // namespace

void upcycle_arm_fault(const char* words) {
  std::vector<Fault> all;
  std::istringstream in(words);
  for (std::string line; std::getline(in, line);) add(all, line);
  const std::lock_guard lock(mutex());
  armed_by = ::getpid();
  faults() = std::move(all);
}
int upcycle_faults_done() {
  const std::lock_guard lock(mutex());
  int n = 0;
  for (const Fault& f : faults()) n += f.done;
  return n;
}
int upcycle_fault_calls() {
  const std::lock_guard lock(mutex());
  int n = 0;
  for (const Fault& f : faults()) n += f.calls;
  return n;
}

extern "C" {

#define WITH_MODE(flags)                    \
  va_list list;                             \
  va_start(list, flags);                    \
  const mode_t mode = mode_of(flags, list); \
  va_end(list)

int open(const char* path, int flags, ...) {
  WITH_MODE(flags);
  return open_as("open", path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  WITH_MODE(flags);
  return open_as("open64", path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  WITH_MODE(flags);
  return openat_as("openat", folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
  WITH_MODE(flags);
  return openat_as("openat64", folder, path, flags, mode);
}

ssize_t write(int file, const void* data, size_t bytes) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  if (quiet()) return real(file, data, bytes);
  return pass(
      "write", path_of(file), [&] { return real(file, data, bytes); }, [&] { return real(file, data, bytes / 2); });
}
ssize_t pwrite(int file, const void* data, size_t bytes, off_t at) {
  return pwrite_as("pwrite", file, data, bytes, at);
}
ssize_t pwrite64(int file, const void* data, size_t bytes, off64_t at) {
  return pwrite_as("pwrite64", file, data, bytes, at);
}
ssize_t writev(int file, const struct iovec* parts, int count) {
  static const auto real = next<ssize_t (*)(int, const struct iovec*, int)>("writev");
  if (quiet()) return real(file, parts, count);
  return pass("write", path_of(file), [&] { return real(file, parts, count); });
}

int fsync(int file) {
  static const auto real = next<int (*)(int)>("fsync");
  if (quiet()) return real(file);
  return pass("fsync", path_of(file), [] { return 0; });
}
int fdatasync(int file) {
  static const auto real = next<int (*)(int)>("fdatasync");
  if (quiet()) return real(file);
  return pass("fsync", path_of(file), [] { return 0; });
}

// A close that fails has closed all the same, as Linux does.
int close(int file) {
  static const auto real = next<int (*)(int)>("close");
  if (quiet()) return real(file);
  const std::string path = path_of(file);
  int code = 0;
  const What what = meet("close", path, code);
  if (what == What::KillBefore) die();
  const int result = real(file);
  if (what == What::Fail) {
    errno = code;
    return -1;
  }
  if (what == What::KillAfter) die();
  return result;
}

int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  if (quiet()) return real(from, to);
  return pass("rename", path_at(AT_FDCWD, from), [&] { return real(from, to); });
}

int unlink(const char* path) {
  static const auto real = next<int (*)(const char*)>("unlink");
  if (quiet()) return real(path);
  return pass("unlink", path_at(AT_FDCWD, path), [&] { return real(path); });
}
int unlinkat(int folder, const char* path, int flags) {
  static const auto real = next<int (*)(int, const char*, int)>("unlinkat");
  if (quiet()) return real(folder, path, flags);
  return pass("unlink", path_at(folder, path), [&] { return real(folder, path, flags); });
}
int rmdir(const char* path) {
  static const auto real = next<int (*)(const char*)>("rmdir");
  if (quiet()) return real(path);
  return pass("unlink", path_at(AT_FDCWD, path), [&] { return real(path); });
}
int remove(const char* path) {
  static const auto real = next<int (*)(const char*)>("remove");
  if (quiet()) return real(path);
  return pass("unlink", path_at(AT_FDCWD, path), [&] { return real(path); });
}

int ftruncate(int file, off_t size) {
  static const auto real = next<int (*)(int, off_t)>("ftruncate");
  if (quiet()) return real(file, size);
  return pass("truncate", path_of(file), [&] { return real(file, size); });
}
int ftruncate64(int file, off64_t size) {
  static const auto real = next<int (*)(int, off64_t)>("ftruncate64");
  if (quiet()) return real(file, size);
  return pass("truncate", path_of(file), [&] { return real(file, size); });
}
int truncate(const char* path, off_t size) {
  static const auto real = next<int (*)(const char*, off_t)>("truncate");
  if (quiet()) return real(path, size);
  return pass("truncate", path_at(AT_FDCWD, path), [&] { return real(path, size); });
}

int mkdir(const char* path, mode_t mode) {
  static const auto real = next<int (*)(const char*, mode_t)>("mkdir");
  if (quiet()) return real(path, mode);
  return pass("mkdir", path_at(AT_FDCWD, path), [&] { return real(path, mode); });
}

}  // extern "C"
