#include "core/host_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t MiB = 1 << 20;

// The files of a machine with 1000 MiB, of which 600 are free.
struct FakeMachine : ::testing::Test {
  const std::string root = ::testing::TempDir() + "host_memory_test_" + std::to_string(getpid());
  FakeMachine() { write("/proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 102400 kB\nMemAvailable: 614400 kB\n"); }
  ~FakeMachine() override { fs::remove_all(root); }

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }
  void group(const std::string& folder, std::size_t limit, std::size_t used, std::size_t files) const {
    write(folder + "/memory.max", std::to_string(limit * MiB) + "\n");
    write(folder + "/memory.current", std::to_string(used * MiB) + "\n");
    write(folder + "/memory.stat", "anon 1\ninactive_file " + std::to_string(files * MiB) + "\n");
  }
  std::size_t free_mib() const { return host_memory(root).free / MiB; }
};

TEST_F(FakeMachine, WhatOtherProgramsHoldIsNotFree) {
  EXPECT_EQ(host_memory(root).total, 1000 * MiB);
  EXPECT_EQ(host_memory(root).free, 600 * MiB);
}

TEST_F(FakeMachine, FreeSwapCountsUpToTheMachinesMemory) {
  write("/proc/meminfo", "MemTotal: 1024000 kB\nMemAvailable: 614400 kB\nSwapFree: 102400 kB\n");
  EXPECT_EQ(free_mib(), 700u);
  write("/proc/meminfo", "MemTotal: 1024000 kB\nMemAvailable: 614400 kB\nSwapFree: 9999999 kB\n");
  EXPECT_EQ(free_mib(), 1000u);
}

TEST_F(FakeMachine, ControlGroupsAllowLess) {
  write("/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  EXPECT_EQ(free_mib(), 600u);  // groups that set no limit
  write("/sys/fs/cgroup/slurm/job_7/memory.max", "max\n");
  EXPECT_EQ(free_mib(), 600u);
  group("/sys/fs/cgroup/slurm/job_7", 400, 150, 50);
  EXPECT_EQ(free_mib(), 300u);
  group("/sys/fs/cgroup/slurm", 900, 800, 10);  // the one around it is fuller
  EXPECT_EQ(free_mib(), 110u);
  group("/sys/fs/cgroup/slurm/job_7/step_0", 50, 60, 0);
  EXPECT_EQ(free_mib(), 0u);
}

TEST_F(FakeMachine, AContainerSeesItsGroupAsTheRoot) {
  write("/proc/self/cgroup", "0::/../../docker/1234\n");
  group("/sys/fs/cgroup", 200, 20, 0);
  EXPECT_EQ(free_mib(), 180u);
}

TEST_F(FakeMachine, ControlGroupsOfVersion1) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n");
  write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", std::to_string(300 * MiB));
  write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", std::to_string(100 * MiB));
  write("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file " + std::to_string(40 * MiB) + "\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  EXPECT_EQ(free_mib(), 240u);
}

TEST(HostMemoryTest, OfThisMachine) {
  const HostMemory m = host_memory();
  EXPECT_GT(m.total, 64 * MiB);
  EXPECT_GT(m.free, 0u);
  EXPECT_LE(m.free, m.total);
  EXPECT_GT(host_memory("/no/such/root").free, 64 * MiB) << "without the files it is all of the machine's";
}

}  // namespace
}  // namespace upcycle
