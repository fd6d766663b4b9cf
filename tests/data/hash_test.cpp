#include "data/hash.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

// Values of `xxhsum -H2`.
TEST(Hash, IsCanonicalXxh3) {
  EXPECT_EQ(hash_bytes("", 0), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_bytes("abc", 3), "06b05ab6733a618578af5f94892f3950");
}

TEST(Hash, OfAFileIsOfItsBytes) {
  const TemporaryFolder folder;
  std::string bytes((std::size_t{4} << 20) + 12345, '\0');  // more than one buffer
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  folder.write("x", bytes);
  const std::string hash = hash_file(folder.file("x"));
  EXPECT_EQ(hash, hash_bytes(bytes.data(), bytes.size()));
  Hasher pieces;
  for (std::size_t at = 0; at < bytes.size(); at += 100003)
    pieces.update(bytes.data() + at, std::min<std::size_t>(100003, bytes.size() - at));
  EXPECT_EQ(pieces.hex(), hash);
  bytes[bytes.size() - 1] ^= 1;
  EXPECT_NE(hash_bytes(bytes.data(), bytes.size()), hash);
  folder.write("empty", "");
  EXPECT_EQ(hash_file(folder.file("empty")), hash_bytes("", 0));
}

TEST(Hash, MissingFileIsNamed) {
  expect_input_error([] { hash_file("/nonexistent/file"); }, {"/nonexistent/file", "No such file"});
}

}  // namespace
}  // namespace upcycle
