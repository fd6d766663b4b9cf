#include <gtest/gtest.h>

#include <cmath>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

namespace upcycle::test {
namespace {

// bf16 has 8 bits: adding n microbatches rounds each element n times, by at most 2^-9 of the sum so far. Microbatches'
// gradients of a small random model have no common direction, so the norms of these sums stay below the last one's, and
// with them the distance below n 2^-9 of it: that is what `allowed_distance` is given.
TEST(GradientDtype, Bf16SumsAreFp32sButForTheirRoundings) {
  for (const Start start : {Start::Dense, Start::SharedExpert}) {
    Switches s;
    s.start = start;
    s.tied = start == Start::Dense;
    s.chunks = 3;
    s.recompute = start == Start::SharedExpert;
    Config c = config_of(s);
    const Fill fill = fill_of(s);
    c.train.global_batch_size = 2 * c.train.micro_batch_size * mpi_session().size();
    const FixedSequences data = clear_sequences(c, fill, c.train.global_batch_size);
    const Reference want = one_rank_reference(c, fill, data);
    const ParamTable table = make_global_table(c.model);
    for (const Parallelism& p : legal_layouts(c.model)) {
      const int microbatches = 2 * p.tp;
      for (const std::int64_t stage : {1, 2}) {
        if (stage == 2 && !has_replicas(c.model, p)) continue;
        SCOPED_TRACE(fmt::format("{}, zero_stage {}", p.text(), stage));
        c.train.gradient_dtype = "bf16";
        c.train.zero_stage = stage;
        const Rig rig;
        const Mesh mesh = make_test_mesh(rig, p);
        Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
        fill(t);
        ASSERT_EQ(different_choices(t, routing_of(t, data), want), 0);
        EXPECT_NEAR(compute_gradients(t, data.source()).loss, want.result.loss, 1e-6 * want.result.loss);
        const std::vector<double> differences = gradient_differences(t, want.gradients);
        double all = 0;
        for (std::size_t i = 0; i < table.rows.size(); ++i) {
          EXPECT_LE(differences[i], allowed_distance(want.norms[i], want.norm, microbatches * 0x1p-9))
              << table.rows[i].name << ", norm " << want.norms[i] << " of " << want.norm;
          all += differences[i] * differences[i];
        }
        EXPECT_GE(std::sqrt(all), 0x1p-13 * want.norm) << "nothing was rounded";
        EXPECT_NEAR(clipped_norm(t), want.norm, microbatches * 0x1p-9 * want.norm);
      }
    }
    c.train.gradient_dtype = "fp32";
  }
}

}  // namespace
}  // namespace upcycle::test
