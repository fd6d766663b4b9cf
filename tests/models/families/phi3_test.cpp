#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Phi3, IsWrittenAsItself) { expect_written_as_itself(phi3(), {"attention_bias", "mlp_bias"}); }

TEST(Phi3, RefusesWhatItDoesNotMean) {
  expect_refused(with(phi3(), "resid_pdrop", 0.1), {"resid_pdrop", "0.1"});
  expect_refused(with(phi3(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}), {"rope_scaling", "longrope"});
  json file = phi3();
  file.erase("original_max_position_embeddings");  // of the model: its longest, 512
  expect_refused(file, {"original_max_position_embeddings", "4096"});
}

}  // namespace
}  // namespace upcycle::test
