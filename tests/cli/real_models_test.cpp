#include <algorithm>
#include <cmath>

#include "data/safetensors.h"
#include "tests/cli/small_run.h"
#include "tests/data/stored_values.h"
#include "tests/real_models.h"

namespace upcycle {
namespace {

using nlohmann::json;

const std::vector<std::string> models = {"/stories260K/hf", "/TinyStories-656K"};

json reference_of(const std::string& model) { return json::parse(std::ifstream(model + "/reference.json")); }

// `dir` (a Hugging Face directory or a checkpoint) against fp64 values of an independent implementation.
void expect_reference(const std::string& dir, const std::string& model) {
  const json reference = reference_of(model);
  const json ours = json_of({"score", dir, "--ids", model + "/reference.json", "--dtype", "fp32", "--json"});
  ASSERT_EQ(ours["nll"].size(), reference["ids"].size() - 1);
  EXPECT_NEAR(ours["mean_nll"].get<double>(), reference["mean_nll"].get<double>(), 1e-5);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(ours["nll"][i].get<double>(), reference["nll_first8"][i].get<double>(), 1e-4) << i;
    EXPECT_NEAR(ours["logits_last"][i].get<double>(), reference["logits_last_first8"][i].get<double>(), 1e-4) << i;
  }
  const auto logits = ours["logits_last"].get<std::vector<double>>();
  EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), reference["argmax_last"].get<int>());

  const json rounded = json_of({"score", dir, "--ids", model + "/reference.json", "--dtype", "bf16", "--json"});
  EXPECT_NEAR(rounded["mean_nll"].get<double>(), reference["mean_nll"].get<double>(), 2e-2);
  EXPECT_NE(rounded["mean_nll"], ours["mean_nll"]);
}

TEST(RealModels, ScoreOfTheHuggingFaceDirectory) {
  const std::string folder = real_models();
  if (folder.empty()) GTEST_SKIP();
  for (const std::string& model : models) expect_reference(folder + model, folder + model);
}

TEST(RealModels, ScoreThroughImport) {
  const std::string folder = real_models();
  if (folder.empty()) GTEST_SKIP();
  for (const std::string& model : models) {
    const TemporaryFolder t;
    EXPECT_EQ(run_upcycle({"import", folder + model, t.file("h5"), "--shards=3"}).exit_code, 0);
    expect_reference(t.file("h5"), folder + model);
    EXPECT_EQ(checkpoint_hashes(t.file("h5")).count("model.rank00002.h5"), 1u);
  }
}

// Every tensor of `a` is in `b`, bit for bit; `other_name` says where else a tied embedding may be stored.
void expect_same_tensors(const SafetensorsSet& a, const SafetensorsSet& b) {
  for (const std::string& name : a.names()) {
    const std::vector<std::string> b_names = b.names();
    const std::string other = std::find(b_names.begin(), b_names.end(), name) != b_names.end()
                                  ? name
                                  : std::string("model.embed_tokens.weight");
    ASSERT_TRUE(other == name || name == "lm_head.weight") << name;
    const StoredTensor &x = a.info(name), &y = b.info(other);
    ASSERT_EQ(x.shape, y.shape) << name;
    ASSERT_EQ(x.type, y.type) << name;
    EXPECT_TRUE(stored_values<char>(a.path_of(name), x) == stored_values<char>(b.path_of(other), y)) << name;
  }
}

TEST(RealModels, ImportThenExportGivesTheSameBits) {
  const std::string folder = real_models();
  if (folder.empty()) GTEST_SKIP();
  for (const std::string& model : models) {
    const TemporaryFolder t;
    EXPECT_EQ(run_upcycle({"import", folder + model, t.file("h5"), "--shards=2"}).exit_code, 0);
    EXPECT_EQ(run_upcycle({"export", t.file("h5"), t.file("hf")}).exit_code, 0);
    const SafetensorsSet original = SafetensorsSet::open(folder + model), exported = SafetensorsSet::open(t.file("hf"));
    EXPECT_EQ(original.names().size(), exported.names().size());
    expect_same_tensors(original, exported);
  }
}

}  // namespace
}  // namespace upcycle
