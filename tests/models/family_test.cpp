#include "parallel/models/hf_config.h"
#include "parallel/models/stored_place.h"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "tests/checkpoint/saved_model.h"

namespace upcycle::test {
namespace {

TEST(Family, IsFoundByItsModelType) {
  for (const char* type : {"llama", "mixtral", "olmo2", "qwen2", "qwen3"}) {
    ASSERT_NE(find_family(type), nullptr) << type;
    EXPECT_STREQ(find_family(type)->model_type, type);
  }
  EXPECT_EQ(find_family(""), nullptr);
  std::set<std::string> types;
  for (const Family* f : all_families()) EXPECT_TRUE(types.insert(f->model_type).second) << f->model_type;
}

TEST(Family, StoresEveryParameterInAPlaceOfItsOwn) {
  ModelConfig model = small_model(4);
  model.moe_every_n_layers = 2;
  model.shared_expert = true;
  model.attention_bias = "all";
  model.qk_norm = "head";
  for (const Family* f : all_families()) {
    std::set<std::tuple<std::string, std::int64_t, std::int64_t>> places;
    for (const auto& [name, place] : stored_places(*f, model))
      EXPECT_TRUE(places.emplace(place.tensor, place.row, place.column).second) << f->model_type << " " << name;
  }
}

// The default families of an export use the names of our checkpoints.
TEST(Family, LlamaAndMixtralNameTensorsAsCheckpointsDo) {
  for (const std::int64_t E : {0, 4})
    for (const ParamRow& row : make_global_table(small_model(E)).rows)
      EXPECT_EQ(name_of(exported_family(small_model(E), "").pattern(row.role), row.layer, row.expert), row.name);
}

// Gate and up below each other in one tensor; of experts, in one tensor of all.
TEST(Family, StacksRolesInOneTensor) {
  Family family = *find_family("mixtral");
  family.stacks = {{"layers.{}.gate_up", {ParamRole::Gate, ParamRole::Up}},
                   {"layers.{}.in", {ParamRole::ExpertGate, ParamRole::ExpertUp}},
                   {"layers.{}.out", {ParamRole::ExpertDown}},
                   {"norms", {ParamRole::FinalNorm}}};
  ModelConfig model = small_model(4);
  model.moe_every_n_layers = 2;
  const auto places = stored_places(family, model);
  const std::int64_t H = model.hidden_size, F = model.intermediate_size, X = model.expert_size();
  const auto expect = [&](const std::string& name, const std::string& tensor, std::vector<std::int64_t> shape,
                          std::int64_t row) {
    const StoredPlace& place = places.at(name);
    EXPECT_EQ(place.tensor, tensor) << name;
    EXPECT_EQ(place.shape, shape) << name;
    EXPECT_EQ(place.row, row) << name;
    EXPECT_EQ(place.column, 0) << name;
  };
  expect(canonical_name(ParamRole::Gate, 0), "layers.0.gate_up", {2 * F, H}, 0);
  expect(canonical_name(ParamRole::Up, 0), "layers.0.gate_up", {2 * F, H}, F);
  expect(canonical_name(ParamRole::ExpertUp, 1, 2), "layers.1.in", {4, 2 * X, H}, 5 * X);
  expect(canonical_name(ParamRole::ExpertDown, 1, 3), "layers.1.out", {4, H, X}, 3 * H);
  expect(canonical_name(ParamRole::FinalNorm), "norms", {H}, 0);
  expect(canonical_name(ParamRole::Query, 1), canonical_name(ParamRole::Query, 1), {24, H}, 0);
}

}  // namespace
}  // namespace upcycle::test
