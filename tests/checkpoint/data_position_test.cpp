#include "parallel/checkpoint/data_position.h"

#include <gtest/gtest.h>

#include "data/files.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

const DataPosition position{48, 3, 2};

TEST(DataPosition, IsOfOneStep) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_data_position(folder.path.string(), "step_00000004"), std::nullopt);
  write_data_position(folder.path.string(), "step_00000004", position);
  EXPECT_EQ(read_data_position(folder.path.string(), "step_00000004"), position);
  EXPECT_EQ(read_data_position(folder.path.string(), "step_00000005"), std::nullopt);
}

TEST(DataPosition, NoByteOfItChangesUnnoticed) {
  const TemporaryFolder folder;
  write_data_position(folder.path.string(), "step_00000004", position);
  const std::string path = folder.path.string() + "/data_position", whole = read_text(path, 4096);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    write_text_atomic(path, changed);
    EXPECT_EQ(read_data_position(folder.path.string(), "step_00000004"), std::nullopt) << i;
    write_text_atomic(path, whole.substr(0, i));
    EXPECT_EQ(read_data_position(folder.path.string(), "step_00000004"), std::nullopt) << i;
  }
  for (const std::size_t n : {std::size_t{0}, whole.size() - 1, whole.size() + 1, std::size_t{1} << 20}) {
    std::string other = whole;
    other.resize(n, 'x');
    folder.write("data_position", other);
    EXPECT_EQ(read_data_position(folder.path.string(), "step_00000004"), std::nullopt) << n;
  }
}

}  // namespace
}  // namespace upcycle
