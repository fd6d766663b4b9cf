#include "parallel/comm/agree.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "core/error.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {
namespace {

// What agree_or_throw threw on this rank; "" when nothing.
std::string agreed(Communicator& world, const std::function<void()>& check) {
  try {
    agree_or_throw(world, check);
  } catch (const AgreedError& e) {
    return e.what();
  }
  return "";
}

TEST(Agree, PassesWhereAllPass) {
  const Mesh mesh = make_test_mesh();
  int calls = 0;
  EXPECT_EQ(agreed(*mesh.world, [&] { ++calls; }), "");
  EXPECT_EQ(calls, 1);
}

TEST(Agree, OneRanksFailureIsEveryRanks) {
  const Mesh mesh = make_test_mesh();
  for (int failing = 0; failing < mesh.layout.world; ++failing) {
    const std::string text = agreed(*mesh.world, [&] {
      if (mesh.rank == failing) input_error("shard {} is truncated", failing);
    });
    const std::string where = failing == 0 ? "" : fmt::format("rank {} on {}: ", failing, mpi_session().host());
    EXPECT_EQ(text, fmt::format("{}shard {} is truncated", where, failing));
  }
}

TEST(Agree, TheFirstFailureIsReported) {
  const Mesh mesh = make_test_mesh();
  const int first = mesh.layout.world / 2;
  const std::string text = agreed(*mesh.world, [&] {
    if (mesh.rank >= first) input_error("from rank {}", mesh.rank);
  });
  EXPECT_TRUE(text.ends_with(fmt::format("from rank {}", first))) << text;
  EXPECT_EQ(agreed(*mesh.world, [] { throw InputError(""); }), "");  // an empty text still throws
  EXPECT_THROW(agree_or_throw(*mesh.world, [] { throw InputError(""); }), AgreedError);
}

TEST(Agree, OtherErrorsPassThrough) {
  const Mesh mesh = make_test_mesh();
  EXPECT_THROW(agree_or_throw(*mesh.world, [] { UPCYCLE_CHECK(false, "broken"); }), Error);
}

}  // namespace
}  // namespace upcycle::test
