#include <unistd.h>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

namespace upcycle {
namespace {

// On a machine of 16 GiB of which other programs have left 64 KiB: /proc/meminfo says so in a mount namespace.
TEST(Memory, WhatOtherProgramsHoldIsNotPlannedWith) {
  const SmallRun small;
  const std::string meminfo =
      small.folder.write("meminfo", "MemTotal: 16777216 kB\nMemFree: 32 kB\nMemAvailable: 64 kB\nSwapFree: 0 kB\n");
  const auto there = [&](const Words& words) {
    Words all{"/usr/bin/env",
              "unshare",
              geteuid() == 0 ? "-m" : "-rm",
              "sh",
              "-c",
              "mount --bind \"$0\" /proc/meminfo || exit 125; exec \"$@\"",
              small.file("meminfo")};
    all.insert(all.end(), words.begin(), words.end());
    return run_program(all, {{"OMP_NUM_THREADS", "1"}});
  };
  if (there({"true"}).exit_code != 0) GTEST_SKIP() << "no mount namespace here";
  const std::string config = small.write_config("run");
  const auto before = files_below(small.folder.path.string());
  for (const Words& words : {Words{"bench", "step", config}, Words{"bench", "ops", config}, Words{"train", config}}) {
    Words command{UPCYCLE_BINARY};
    command.insert(command.end(), words.begin(), words.end());
    const std::string line = one_line_error(there(command));
    EXPECT_NE(line.find("memory: found"), std::string::npos) << line;
    EXPECT_NE(line.find("0.0 GiB in all that are free of its 16.0"), std::string::npos) << line;
  }
  EXPECT_EQ(files_below(small.folder.path.string()), before);
  small.folder.write("meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n");
  EXPECT_EQ(there({UPCYCLE_BINARY, "bench", "step", config, "--steps=1"}).exit_code, 0);
}

}  // namespace
}  // namespace upcycle
