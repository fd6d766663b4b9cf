#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Granite, IsWrittenAsItself) { expect_written_as_itself(granite()); }

TEST(Granite, ReadsItsMultipliers) {
  EXPECT_EQ(parse(with(llama(), "model_type", "granite")).model.attention_multiplier, 1);  // absent
  expect_refused(with(granite(), "attention_multiplier", 0), {"attention_multiplier", "found 0"});
}

}  // namespace
}  // namespace upcycle::test
