#include "parallel/models/weight_type.h"

#include <gtest/gtest.h>

#include "tests/data/expect_input_error.h"

namespace upcycle {
namespace {

TEST(WeightType, IsFoundByBothNames) {
  for (const StoredType stored : {StoredType::F32, StoredType::BF16, StoredType::F16}) {
    const WeightType& type = weight_type(stored);
    EXPECT_EQ(type.stored, stored);
    EXPECT_EQ(find_weight_type(type.name), &type);
    EXPECT_EQ(find_weight_type(type.config_name), &type);
    EXPECT_NE(weight_type_names().find(type.name), std::string::npos);
  }
  EXPECT_EQ(find_weight_type("float64"), nullptr);
  EXPECT_EQ(find_weight_type(""), nullptr);
  expect_input_error([] { weight_type(StoredType::F64); }, {"F64", weight_type_names().c_str()});
}

}  // namespace
}  // namespace upcycle
