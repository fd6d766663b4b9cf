#include <gtest/gtest.h>

#include <algorithm>

#include "tests/parity_mpi/models.h"

namespace upcycle::test {
namespace {

// Where documents lie depends on the tokens alone: every layout parts them as one rank does.
void compare_apart(Start start) {
  Switches s;
  s.start = start;
  Config c = config_of(s);
  c.model.vocab_size = 9;  // so that a sequence of 12 has an end of document, or two
  c.data.reset_attention_mask = c.data.reset_position_ids = true;
  c.data.eod_token_id = 4;
  c.train.global_batch_size = 2 * mpi_session().size();
  const Fill fill = random_fill();
  const FixedSequences data = clear_sequences(c, fill, c.train.global_batch_size);
  ASSERT_GT(std::count(data.tokens.begin(), data.tokens.end(), 4), 1);
  compare_all_layouts(c, fill, data);
}

TEST(Documents, LieApartAlikeOnEveryLayout) { compare_apart(Start::Dense); }
TEST(Documents, LieApartAlikeOnEveryLayoutOfExperts) { compare_apart(Start::Copy); }

}  // namespace
}  // namespace upcycle::test
