#include "data/without_rights.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "data/files.h"
#include "tests/data/expect_input_error.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;  // they meet crashes and want of memory themselves
#else
constexpr bool sanitized = false;
#endif

namespace upcycle {
namespace {

std::string in_copy(const std::function<std::string()>& work) { return without_rights("x.h5: listing", 1000, work); }

// "": it succeeded.
std::string errno_text(bool good) { return good ? "" : std::strerror(errno); }
const std::string no = std::strerror(EPERM);

TEST(WithoutRights, ReadsComputesAndAnswers) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "what stands there");
  EXPECT_EQ(in_copy([&] { return read_text(path, 100); }), "what stands there");
  EXPECT_EQ(in_copy([] { return std::string("a\0\n", 3); }), std::string("a\0\n", 3));
  EXPECT_EQ(in_copy([] { return std::string(); }), "");
  EXPECT_EQ(without_rights("x", 5 << 20, [] { return std::string(5 << 20, 'x'); }).size(), std::size_t{5} << 20);
  int changed = 0;
  EXPECT_EQ(in_copy([&] { return std::to_string(++changed); }), "1");
  EXPECT_EQ(changed, 0) << "the copy's memory is its own";
}

TEST(WithoutRights, CanNeitherWriteNorStartNorSpeak) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "kept"), fresh = folder.file("b");
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT})
    EXPECT_EQ(in_copy([&] { return errno_text(open((flags & O_CREAT ? fresh : path).c_str(), flags, 0600) >= 0); }),
              no);
  EXPECT_EQ(in_copy([&] { return errno_text(unlink(path.c_str()) == 0); }), no);
  EXPECT_EQ(in_copy([&] { return errno_text(rename(path.c_str(), fresh.c_str()) == 0); }), no);
  EXPECT_EQ(in_copy([&] { return errno_text(chmod(path.c_str(), 0) == 0); }), no);
  EXPECT_EQ(in_copy([] { return errno_text(socket(AF_INET, SOCK_STREAM, 0) >= 0); }), no);
  EXPECT_EQ(in_copy([] { return errno_text(fork() >= 0); }), no);
  EXPECT_EQ(in_copy([] { return errno_text(execl("/bin/true", "true", nullptr) == 0); }), no);
  EXPECT_EQ(in_copy([] { return errno_text(kill(getppid(), 0) == 0); }), no);
  EXPECT_EQ(folder.read("a"), "kept");
  EXPECT_EQ(folder.names().size(), 1u);
}

TEST(WithoutRights, HasNoneOfOurFilesAndSharedMemory) {
  const TemporaryFolder folder;
  const FileDescriptor file = create_file(folder.file("a"));
  EXPECT_EQ(in_copy([&] { return errno_text(write(file.get(), "x", 1) == 1); }), no);
  EXPECT_EQ(in_copy([&] {
              char c;
              return errno_text(read(file.get(), &c, 1) >= 0);
            }),
            std::strerror(EBADF));
  EXPECT_EQ(folder.read("a"), "");
  if (sanitized) return;
  void* const shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  expect_input_error([&] { in_copy([&] { return *static_cast<volatile char*>(shared) = 'x', ""; }); }, {"signal 11"});
  EXPECT_EQ(*static_cast<char*>(shared), 0);
  munmap(shared, 4096);
}

TEST(WithoutRights, WhateverEndsTheCopyIsOneLine) {
  expect_input_error([] { in_copy([]() -> std::string { throw InputError("x.h5: found\nnothing"); }); },
                     {"x.h5: found nothing"});
  expect_input_error([] { in_copy([]() -> std::string { throw std::runtime_error("odd"); }); }, {"x.h5: listing: odd"});
  expect_input_error([] { in_copy([]() -> std::string { _exit(0); }); }, {"without an answer"});
  expect_input_error([] { in_copy([]() -> std::string { _exit(3); }); }, {"without an answer"});
  expect_input_error([] { in_copy([] { return std::string(1001, 'x'); }); }, {"more than 1000 bytes"});
  if (sanitized) return;
  expect_input_error([] { in_copy([]() -> std::string { std::abort(); }); }, {"x.h5: listing: ended by signal"});
  expect_input_error(
      [] {
        in_copy([]() -> std::string {
          *static_cast<volatile int*>(nullptr) = 1;
          return "";
        });
      },
      {"signal 11", "made to do harm"});
  expect_input_error([] { in_copy([] { return std::string(std::size_t{3} << 30, 'x').substr(0, 1); }); },
                     {"x.h5: listing: std::bad_alloc"});
}

// Other threads of ours do not matter, and no process is left.
TEST(WithoutRights, BesideOtherThreads) {
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) std::string(1000 + rand() % 100000, 'x').swap(*std::make_unique<std::string>());
  });
  for (int i = 0; i < 100; ++i) EXPECT_EQ(in_copy([&] { return std::to_string(i); }), std::to_string(i));
  stop = true;
  other.join();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace upcycle
