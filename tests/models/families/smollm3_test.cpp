#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(SmolLM3, IsWrittenAsItself) { expect_written_as_itself(smollm3()); }

TEST(SmolLM3, AbsentKeysMeanWhatTransformersTakes) {
  json file = with(llama(), "model_type", "smollm3");
  file.erase("rope_theta");
  file.erase("tie_word_embeddings");
  EXPECT_EQ(parse(file).model.no_rope_every, 4);
  EXPECT_EQ(parse(file).model.rope_theta, 2e6);
  EXPECT_TRUE(parse(file).model.tie_word_embeddings);
  EXPECT_EQ(parse(with(file, "no_rope_layers", {1, 1, 1, 1, 1})).model.no_rope_every, 0);
}

TEST(SmolLM3, RefusesOtherLayersWithoutRope) {
  expect_refused(with(smollm3(), "no_rope_layers", {1, 0, 0, 1, 1}), {"no_rope_layers", "every n-th"});
  expect_refused(with(smollm3(), "no_rope_layers", {1, 0}), {"no_rope_layers", "each layer"});
}

}  // namespace
}  // namespace upcycle::test
