#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Qwen, SaysBiasesAndNorms) {
  expect_forms(qwen2(), "qkv", "none", "pre");
  expect_forms(qwen3(), "none", "head", "pre");
  expect_forms(with(qwen3(), "attention_bias", true), "all", "head", "pre");
  expect_refused(with(qwen2(), "mlp_bias", true), {"mlp_bias", "Qwen2"});
}

// Qwen's files have a window that a switch leaves off, as it is where there is none.
TEST(Qwen, AWindowThatIsSwitchedOffIsNone) {
  for (const json& qwen : {qwen2(), qwen3()}) {
    const json file = with(with(qwen, "sliding_window", 64), "max_window_layers", 2);
    EXPECT_EQ(parse(file).model.sliding_window, 0);
    EXPECT_EQ(parse(with(file, "use_sliding_window", false)).model.sliding_window, 0);
    expect_refused(with(file, "use_sliding_window", true), {"sliding_window", "found 64", "Qwen"});
  }
}

TEST(Qwen, SizesMustBeSaid) {
  json file = qwen3();
  file.erase("head_dim");
  expect_refused(file, {"missing", "head_dim"});
  for (file = qwen2(); file.contains("num_key_value_heads");) {
    file.erase("num_key_value_heads");
    expect_refused(file, {"missing", "num_key_value_heads"});
  }
}

}  // namespace
}  // namespace upcycle::test
