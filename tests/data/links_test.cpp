#include "data/links.h"

#include <gtest/gtest.h>

#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

// What is copied from a model's folder is the folder's own, or Hugging Face's cache, which consists of links.
TEST(Links, OutOfAFolderAreRefused) {
  namespace fs = std::filesystem;
  const TemporaryFolder folder;
  for (const char* name : {"hub/m/snapshots/1/sub", "hub/m/blobs", "hub/other/blobs"})
    fs::create_directories(folder.file(name));
  folder.write("secret", "x");
  folder.write("hub/m/blobs/a1", "x");
  folder.write("hub/m/snapshots/1/own", "x");
  fs::create_directory_symlink(folder.file("hub/m/snapshots/1"), folder.file("named"));
  const auto link = [&](const std::string& to, const std::string& name) {
    fs::create_symlink(to, folder.file("hub/m/snapshots/1/" + name));
    for (const char* of : {"hub/m/snapshots/1", "named"}) refuse_link_outside(folder.file(of), name);
  };
  link("own", "a");
  link("../../blobs/a1", "b");
  link("../../../m/blobs/../blobs/a1", "c");
  refuse_link_outside(folder.file("named"), "own");
  refuse_link_outside(folder.file("named"), "none");
  folder.write("hub/other/blobs/a1", "x");
  fs::create_symlink("../../../secret", folder.file("hub/m/blobs/a2"));
  for (const std::string& to : {std::string("../../../../secret"), folder.file("secret"), std::string("../../blobs/a2"),
                                std::string("../../../other/blobs/a1")}) {
    fs::remove(folder.file("hub/m/snapshots/1/d"));
    expect_input_error([&] { link(to, "d"); }, {"/d: found a link to", "outside of the folder"});
  }
  fs::remove(folder.file("hub/m/snapshots/1/d"));
  expect_input_error([&] { link("d", "d"); }, {"/d: cannot follow"});
}

}  // namespace
}  // namespace upcycle
