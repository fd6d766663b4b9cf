#include "launch/appended_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>

#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

TEST(AppendedFile, GoesOnWhereItEnded) {
  const TemporaryFolder folder;
  for (const char* line : {"a\n", "b\n"}) AppendedFile(folder.file("lines"), "lines").append(line);
  EXPECT_EQ(folder.read("lines"), "a\nb\n");
}

// A run folder from elsewhere must not have us write to a file of ours, or wait for ever.
TEST(AppendedFile, NeitherFollowsLinksNorWaitsForPipes) {
  const TemporaryFolder folder;
  folder.write("precious", "kept");
  std::filesystem::create_symlink("precious", folder.file("link"));
  EXPECT_EQ(AppendedFile(folder.file("link"), "lines").open(), ELOOP);
  EXPECT_EQ(folder.read("precious"), "kept");
  ASSERT_EQ(::mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_EQ(AppendedFile(folder.file("pipe"), "lines").open(), ENXIO);
}

}  // namespace
}  // namespace upcycle
