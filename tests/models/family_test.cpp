#include "parallel/models/family.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/checkpoint/saved_model.h"

namespace upcycle::test {
namespace {

TEST(Family, IsFoundByItsModelType) {
  for (const char* type : {"llama", "mixtral"}) {
    ASSERT_NE(find_family(type), nullptr) << type;
    EXPECT_STREQ(find_family(type)->model_type, type);
  }
  EXPECT_EQ(find_family(""), nullptr);
  std::set<std::string> types;
  for (const Family* f : all_families()) EXPECT_TRUE(types.insert(f->model_type).second) << f->model_type;
}

TEST(Family, NamesEveryTensorDifferently) {
  ModelConfig model = small_model(4);
  model.moe_every_n_layers = 2;
  model.shared_expert = true;
  for (const Family* f : all_families()) {
    std::set<std::string> names;
    for (const ParamRow& row : make_global_table(model).rows) {
      const std::string name = name_of(f->pattern(row.role), row.layer, row.expert);
      EXPECT_TRUE(names.insert(name).second) << f->model_type << " " << name;
    }
  }
}

// The default families of an export use the names of our checkpoints.
TEST(Family, LlamaAndMixtralNameTensorsAsCheckpointsDo) {
  for (const std::int64_t E : {0, 4})
    for (const ParamRow& row : make_global_table(small_model(E)).rows)
      EXPECT_EQ(name_of(exported_family(small_model(E), "").pattern(row.role), row.layer, row.expert), row.name);
}

}  // namespace
}  // namespace upcycle::test
