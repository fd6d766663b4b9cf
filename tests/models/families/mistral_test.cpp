#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Mistral, IsWrittenAsItself) { expect_written_as_itself(mistral(), {"attention_bias", "mlp_bias"}); }

TEST(Mistral, AnAbsentWindowIsTransformers) {
  json file = mistral();
  file.erase("sliding_window");
  EXPECT_EQ(parse(with(file, "max_position_embeddings", 8192)).model.sliding_window, 4096);
  EXPECT_EQ(parse(file).model.sliding_window, 4096);
  EXPECT_EQ(parse(with(file, "sliding_window", nullptr)).model.sliding_window, 0);
}

}  // namespace
}  // namespace upcycle::test
