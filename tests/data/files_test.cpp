#include "data/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

TEST(Files, ReadsTextUpToALimit) {
  const TemporaryFolder folder;
  const std::string text(100000, 'x');
  folder.write("t", text);
  EXPECT_EQ(read_text(folder.file("t"), 100000), text);
  expect_input_error([&] { read_text(folder.file("t"), 99999); }, {"/t", "99999"});
  expect_input_error([&] { read_text(folder.file("none"), 10); }, {"/none", "No such file"});
  expect_input_error([&] { read_text(folder.path.string(), 10); }, {"directory"});
}

TEST(Files, WritesTextWholeOrNotAtAll) {
  const TemporaryFolder folder;
  write_text_atomic(folder.file("t"), "one");
  write_text_atomic(folder.file("t"), "two");
  EXPECT_EQ(folder.read("t"), "two");
  EXPECT_EQ(folder.names().size(), 1u);
  expect_input_error([&] { write_text_atomic(folder.file("none/t"), "x"); }, {"none/t"});
  std::filesystem::create_directory(folder.file("d"));
  expect_input_error([&] { write_text_atomic(folder.file("d"), "x"); }, {"/d"});  // the rename fails: nothing stays
  EXPECT_EQ(folder.names().size(), 2u);
}

TEST(Files, AFullDiskIsAnErrorAndNotTheUsers) {
  const FileDescriptor full = create_file("/dev/full");
  EXPECT_THROW(full.write_at(0, "x", 1), Error);
}

TEST(Files, ReadsAtPositionsAndNamesTruncation) {
  const TemporaryFolder folder;
  folder.write("t", "0123456789");
  const FileDescriptor file = open_regular_file(folder.file("t"));
  EXPECT_EQ(file.size(), 10u);
  char out[4] = {};
  file.read_at(6, out, 4);
  EXPECT_EQ(std::string(out, 4), "6789");
  expect_input_error([&] { file.read_at(7, out, 4); }, {"/t", "byte 10", "truncated"});
}

TEST(Files, RegularFilesOnly) {
  const TemporaryFolder folder;
  expect_input_error([&] { open_regular_file(folder.path.string()); }, {"a folder", "expected a regular file"});
  ASSERT_EQ(::mkfifo((folder.file("pipe")).c_str(), 0600), 0);
  expect_input_error([&] { open_regular_file(folder.file("pipe")); },
                     {"special file"});  // and does not wait for a writer
}

TEST(Files, TextOfAFolderIsOfRegularFilesOnly) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_regular_text(folder.write("a", "text"), 4), "text");
  expect_input_error([&] { read_regular_text(folder.file("a"), 3); }, {"more than 3 bytes"});
  ASSERT_EQ(::mkfifo((folder.file("pipe")).c_str(), 0600), 0);  // without a writer: opening it would wait
  expect_input_error([&] { read_regular_text(folder.file("pipe"), 4); }, {"pipe", "a regular file"});
}

TEST(Files, PlainNames) {
  for (const char* name : {"a", "model-00001-of-00002.safetensors", "..a", "a..", "a b", "\xc3\xa4"})
    EXPECT_TRUE(is_plain_file_name(name)) << name;
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("/a"), std::string("a/b"), std::string("../a"),
        std::string("a\n"), std::string("a\0b", 3), std::string("\x1b[2J"), std::string("\x7f"), std::string(256, 'a')})
    EXPECT_FALSE(is_plain_file_name(name)) << name;
}

TEST(Files, SyncsAndRenames) {
  const TemporaryFolder folder;
  folder.write("t", "x");
  std::filesystem::create_directory(folder.file("d"));
  fsync_file(folder.file("t"));
  fsync_directory(folder.path.string());
  expect_input_error([&] { fsync_directory(folder.file("t")); }, {"/t"});
  expect_input_error([&] { fsync_file(folder.file("none")); }, {"/none"});
  rename_durable(folder.file("t"), folder.file("d/u"));
  EXPECT_EQ(folder.read("d/u"), "x");
  expect_input_error([&] { rename_durable(folder.file("t"), folder.file("d/u")); }, {"d/u", "rename"});
}

TEST(Files, ParentFolders) {
  EXPECT_EQ(parent_folder("a"), ".");
  EXPECT_EQ(parent_folder("a/b"), "a");
  EXPECT_EQ(parent_folder("a/b/"), "a");
  EXPECT_EQ(parent_folder("/a"), "/");
}

TEST(Files, RemovesTreesButFollowsNoLinks) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.file("d/e"));
  folder.write("d/e/f", "x");
  folder.write("kept", "x");
  std::filesystem::create_directory(folder.file("outside"));
  folder.write("outside/kept", "x");
  std::filesystem::create_directory_symlink(folder.file("outside"), folder.file("d/link"));
  remove_tree(folder.file("d"));
  remove_tree(folder.file("d"));  // absent is fine
  EXPECT_FALSE(std::filesystem::exists(folder.file("d")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("outside/kept")));
  EXPECT_THROW(remove_tree(""), Error);
  EXPECT_THROW(remove_tree("/"), Error);
}

TEST(FolderLock, IsHeldOnceAndNamesItsHolder) {
  const TemporaryFolder folder;
  {
    const FolderLock lock(folder.path.string());
    expect_input_error([&] { FolderLock second(folder.path.string()); },
                       {folder.path.c_str(), "in use by pid", std::to_string(::getpid()).c_str(), "on host"});
  }
  const FolderLock again(folder.path.string());
  expect_input_error([&] { FolderLock lock(folder.file("none")); }, {"none"});
}

// A run folder from elsewhere must not have us empty or write a file of ours.
TEST(Files, WhatWeWriteBesideOthersFollowsNoLinks) {
  const TemporaryFolder folder, run;
  const std::string precious = folder.write("precious", "kept");
  for (const char* name : {"latest.tmp", ".lock"}) std::filesystem::create_symlink(precious, run.file(name));
  EXPECT_ANY_THROW(write_text_atomic(run.file("latest"), "step_00000001"));
  expect_input_error([&] { FolderLock lock(run.path.string()); }, {".lock", "symbolic links"});
  EXPECT_EQ(folder.read("precious"), "kept");
  write_text_atomic(run.file("latest"), "step_00000001");  // the link went with the failure
  EXPECT_EQ(run.read("latest"), "step_00000001");
}

TEST(FolderLock, TryingSaysWhetherItIsFree) {
  TemporaryFolder folder;
  const std::string path = folder.path.string();
  {
    const std::optional<FolderLock> lock = FolderLock::try_lock(path);
    ASSERT_TRUE(lock);
    EXPECT_FALSE(FolderLock::try_lock(path));
    EXPECT_TRUE(contains(folder.read(".lock"), "pid"));  // the one who failed left the holder's name
  }
  EXPECT_TRUE(FolderLock::try_lock(path));
}

TEST(FolderLock, HoldsAgainstAnotherProcessAndEndsWithIt) {
  const TemporaryFolder folder;
  int to_child[2], to_parent[2];
  ASSERT_EQ(::pipe(to_child), 0);
  ASSERT_EQ(::pipe(to_parent), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const FolderLock lock(folder.path.string());
    char byte = 'x';
    const bool told = ::write(to_parent[1], &byte, 1) == 1 && ::read(to_child[0], &byte, 1) == 1;
    ::_exit(told ? 0 : 1);  // no destructor runs, as after a kill
  }
  char byte = 0;
  ASSERT_EQ(::read(to_parent[0], &byte, 1), 1);
  expect_input_error([&] { FolderLock lock(folder.path.string()); }, {"in use by pid", std::to_string(child).c_str()});
  ASSERT_EQ(::write(to_child[1], &byte, 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  const FolderLock lock(folder.path.string());
  for (const int end : {to_child[0], to_child[1], to_parent[0], to_parent[1]}) ::close(end);
}

}  // namespace
}  // namespace upcycle
