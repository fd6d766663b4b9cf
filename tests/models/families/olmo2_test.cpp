#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Olmo2, SaysBiasesAndNorms) {
  expect_forms(olmo2(), "none", "full", "post");
  expect_forms(with(olmo2(), "attention_bias", true), "all", "full", "post");
  expect_refused(with(olmo2(), "mlp_bias", true), {"mlp_bias", "OLMo2"});
}

}  // namespace
}  // namespace upcycle::test
