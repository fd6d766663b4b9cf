#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(RopeConfig, ReadsBothFormsOfRope) {
  const json scaling = json::parse(llama3);
  const RopeScaling expected{"llama3", 32, 1, 4, 128};
  EXPECT_EQ(parse(with(llama(), "rope_scaling", scaling)).model.rope_scaling, expected);
  json file = llama();
  file.erase("rope_theta");
  file.erase("rope_scaling");
  file["rope_parameters"] = with(scaling, "rope_theta", 5e5);
  EXPECT_EQ(parse(file).model.rope_scaling, expected);
  EXPECT_EQ(parse(file).model.rope_theta, 5e5);
  file["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
  EXPECT_EQ(parse(file).model.rope_scaling, RopeScaling{});
  EXPECT_EQ(parse(file).model.rope_theta, 5e5);
  json old_word = scaling;
  old_word.erase("rope_type");
  old_word["type"] = "llama3";
  EXPECT_EQ(parse(with(llama(), "rope_scaling", old_word)).model.rope_scaling, expected);
}

TEST(RopeConfig, ReadsEveryScalingOfRope) {
  const auto scaling_of = [](const char* text) {
    return parse(with(llama(), "rope_scaling", json::parse(text))).model.rope_scaling;
  };
  RopeScaling expected{"linear", 2};
  EXPECT_EQ(scaling_of(R"({"type":"linear","factor":2})"), expected);
  expected.rope_type = "dynamic";
  EXPECT_EQ(scaling_of(R"({"rope_type":"dynamic","factor":2.0})"), expected);
  expected = {"yarn", 4, 1, 4, 512};  // without the original length, that of the model
  EXPECT_EQ(scaling_of(R"({"rope_type":"yarn","factor":4})"), expected);
  expected.original_max_position_embeddings = 128;
  expected.beta_fast = 16;
  expected.mscale = expected.mscale_all_dim = 0.7;
  expected.truncate = false;
  expected.attention_factor = 1.25;
  EXPECT_EQ(scaling_of(R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":128,"beta_fast":16,
      "beta_slow":null,"mscale":0.7,"mscale_all_dim":0.7,"truncate":false,"attention_factor":1.25})"),
            expected);
  expected = {"longrope", 1, 1, 4, 128};
  expected.short_factor = {1, 1.5, 2, 2.5};
  expected.long_factor = {1, 2, 4, 8};
  EXPECT_EQ(scaling_of(R"({"type":"su","original_max_position_embeddings":128,"short_factor":[1,1.5,2,2.5],
      "long_factor":[1,2,4,8]})"),
            expected);
}

TEST(RopeConfig, RefusesRopesThatDiffer) {
  const json scaling = json::parse(llama3);
  expect_refused(with(llama(), "rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "default"}}),
                 {"m/config.json", "rope_theta", "10000", "500000"});
  json file = with(llama(), "rope_scaling", scaling);
  file["rope_parameters"] = with(scaling, "factor", 8);
  expect_refused(file, {"rope_scaling", "rope_parameters"});
}

TEST(RopeConfig, RefusesOtherRopes) {
  for (const char* type : {"mrope", "proportional"})
    expect_refused(with(llama(), "rope_scaling", {{"rope_type", type}, {"factor", 2}}),
                   {"m/config.json: rope_scaling", "rope_type", type, "llama3"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "linear"}}), {"rope_scaling", "factor", "nothing"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "longrope"}, {"short_factor", 2}}),
                 {"rope_scaling", "short_factor", "found 2", "list"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"attention_factor", 0}}),
                 {"rope_scaling", "attention_factor", "found 0"});
  json file =
      with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 64}});
  expect_refused(with(file, "original_max_position_embeddings", 128),
                 {"original_max_position_embeddings", "64", "128"});
  expect_refused(with(llama(), "rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}}),
                 {"rope_scaling", "low_freq_factor", "nothing", "number"});
  expect_refused(with(llama(), "rope_scaling", 2), {"rope_scaling", "found 2", "object"});
  expect_refused(with(llama(), "partial_rotary_factor", 0.5), {"partial_rotary_factor", "0.5", "Llama"});
}

TEST(RopeConfig, WritesEveryScaling) {
  json longrope = with(llama(), "rope_scaling", json::parse(R"({"type":"longrope","short_factor":[1,1.5,2,2.5],
      "long_factor":[1,2,4,8],"factor":3,"original_max_position_embeddings":128})"));
  for (const json& file :
       {with(llama(), "rope_scaling", json::parse(llama3)),
        with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}),
        with(llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 3}}),
        with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"beta_slow", 2}, {"attention_factor", 0.5}}),
        longrope}) {
    ModelConfig model = parse(file).model;
    const HfConfig again = parse_hf_config(write_hf_config(model, StoredType::F32, "m"), "again");
    model.head_dim = model.head_size();  // written out
    EXPECT_EQ(again.model, model) << file.dump();
  }
}

}  // namespace
}  // namespace upcycle::test
