#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "tests/fuzz/target.h"
#include "tests/source_root.h"

// Inputs that once went wrong, and one or two good ones for each parser, from which tests/fuzz/run.sh starts.
namespace upcycle::fuzz {
namespace {

namespace fs = std::filesystem;

std::map<std::string, Target>& targets() {
  static std::map<std::string, Target> all;
  return all;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

const fs::path kCorpus = fs::path(UPCYCLE_ROOT) / "tests/fuzz/corpus";

TEST(Fuzz, EveryTargetHasInputs) {
  ASSERT_GE(targets().size(), 12u);
  std::size_t folders = 0;
  for (const auto& folder : fs::directory_iterator(kCorpus)) {
    EXPECT_EQ(targets().count(folder.path().filename().string()), 1u) << folder.path();
    EXPECT_FALSE(files_of(folder.path()).empty()) << folder.path();
    ++folders;
  }
  EXPECT_EQ(folders, targets().size());
}

// Each input, and each of its beginnings. Under the address and undefined-behaviour sanitizers in the full tier.
TEST(Fuzz, InputsAndTheirBeginningsAreRefusedOrRead) {
  for (const auto& [name, target] : targets())
    for (const fs::path& file : files_of(kCorpus / name)) {
      SCOPED_TRACE(file.string());
      const std::string input = bytes_of(file);
      EXPECT_NO_THROW(target(input));
      const std::size_t step = std::max<std::size_t>(1, input.size() / 500);
      for (std::size_t size = 0; size < input.size(); size += step)
        EXPECT_NO_THROW(target(std::string_view(input).substr(0, size))) << "its first " << size << " bytes";
    }
}

}  // namespace

bool add_target(const char* name, Target target) { return targets().emplace(name, target).second; }

}  // namespace upcycle::fuzz
