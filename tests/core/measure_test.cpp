#include "core/measure.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"

namespace upcycle {
namespace {

TEST(Measure, IsRelativeToTheTensorAndABitToAllOfItsKind) {
  const std::vector<float> a{3, 0, -4}, b{3, 1, -4};
  EXPECT_EQ(norm(a), 5);
  EXPECT_EQ(distance(a, b), 1);
  EXPECT_DOUBLE_EQ(allowed_distance(5, 0), 5e-5);
  EXPECT_DOUBLE_EQ(allowed_distance(0, 100), 1e-5);
  EXPECT_DOUBLE_EQ(allowed_distance(5, 100, 1e-2), 0.06);
  EXPECT_THROW((void)distance(a, std::vector<float>{3, 0}), Error);
}

}  // namespace
}  // namespace upcycle
