#include "core/progress.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "data/files.h"
#include "data/hash.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

// Calls of the listener while `work` runs.
int signs_of(const std::function<void()>& work) {
  int signs = 0;
  set_progress_listener([&] { ++signs; });
  forward_progress();  // clears what other tests left
  signs = 0;
  work();
  set_progress_listener(nullptr);
  return signs;
}

TEST(Progress, IsForwardedOnlyByTheListenersThread) {
  const int signs = signs_of([] {
    std::thread other([] { made_progress(), made_progress(); });
    other.join();
    forward_progress();  // both at once
    forward_progress();  // nothing new
  });
  EXPECT_EQ(signs, 1);
  EXPECT_EQ(signs_of([] { made_progress(), made_progress(); }), 2);
  EXPECT_EQ(signs_of([] { forward_progress(); }), 0);
}

TEST(Progress, IsMadeByHashingAndDeleting) {
  const TemporaryFolder folder;
  const std::string file = folder.write("file", std::string(std::size_t{9} << 20, 'x'));
  EXPECT_GE(signs_of([&] { (void)hash_file(file); }), 3);  // 4 MiB at a time
  std::filesystem::create_directories(folder.file("step/a"));
  for (const char* name : {"step/1", "step/2", "step/a/3"}) folder.write(name, "x");
  EXPECT_GE(signs_of([&] { remove_tree(folder.file("step")); }), 3);
  EXPECT_FALSE(std::filesystem::exists(folder.file("step")));
}

}  // namespace
}  // namespace upcycle
