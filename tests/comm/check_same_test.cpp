#include "parallel/comm/check_same.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "parallel/comm/agree.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {
namespace {

TEST(Same, EqualTextsPass) {
  const Mesh mesh = make_test_mesh();
  check_same(*mesh.world, "a: 1\nb: 2\n", "");
  check_same(*mesh.world, "", "");
}

TEST(Same, TheFirstDifferenceIsNamedOnEveryRank) {
  const Mesh mesh = make_test_mesh();
  const int size = mesh.layout.world;
  if (size == 1) return check_same(*mesh.world, "alone", "");
  const auto message = [&](const std::string& text) -> std::string {
    try {
      check_same(*mesh.world, text, "do this");
    } catch (const AgreedError& e) {
      return e.what();
    }
    return "";
  };
  const bool last = mesh.rank == size - 1;
  EXPECT_EQ(message(last ? "a: 1\nb: x: 3\nc: 9\n" : "a: 1\nb: 2\nc: 1\n"),
            fmt::format("b: found x: 3 on rank {}, expected 2 as on rank 0; do this", size - 1));
  EXPECT_EQ(message(last ? "a: 1\n" : "a: 1\nb: 2\n"),
            fmt::format("b: found nothing on rank {}, expected 2 as on rank 0; do this", size - 1));
  EXPECT_EQ(message(last ? "a: 1\nb: 2\n" : "a: 1\n"),
            fmt::format("b: found 2 on rank {}, expected nothing as on rank 0; do this", size - 1));
  const std::string all = size == 2 ? "rank 1" : size == 3 ? "ranks 1 and 2" : "ranks 1 to 3";
  const std::string text = message(mesh.rank == 0 ? "a: 1\n" : fmt::format("a: {}\n", 1 + mesh.rank));
  EXPECT_TRUE(text == fmt::format("a: found 2 on {}, expected 1 as on rank 0; do this", all) ||
              text == fmt::format("a: found 2 on ranks 1 to {}, expected 1 as on rank 0; do this", size - 1))
      << text;
}

}  // namespace
}  // namespace upcycle::test
