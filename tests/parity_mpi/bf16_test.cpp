#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

namespace upcycle::test {
namespace {

// The weights of `fill`, rounded to bf16 where the storage is fp32: both storages then hold the same values.
Fill rounded(const Fill& fill) {
  return [fill](Trainer& t) {
    fill(t);
    if (t.config.storage() != DType::F32) return;
    for (const Tensor& flat : {t.memory.weights.dense, t.memory.weights.expert}) {
      std::vector<float> values = floats_of(t, flat);
      for (float& x : values) x = to_float(to_bf16(x));
      set_floats(t, flat, values);
    }
  };
}

// A token's chosen experts in ascending order: bf16 may swap two of them, which changes nothing.
std::vector<std::int32_t> as_sets(std::vector<std::int32_t> chosen, std::int64_t k) {
  for (auto token = chosen.begin(); token != chosen.end(); token += k) std::sort(token, token + k);
  return chosen;
}

// Where activations are rounded depends on the layout: a tp rank rounds its part of a sum, and the sum is rounded
// again. So layouts, one rank included, are not compared with each other but with fp32 arithmetic on the same rounded
// weights. Bound for the whole gradient: twice the distance of one rank (two roundings for one). For a single tensor,
// 2^-4: two layers round an activation some 40 times forward and backward, by 2^-9 at most; as a random walk that is
// 0.012, one rank's worst tensor was measured at 0.033, and a term that is lost, doubled or scaled by a group's size
// shows as tens of percent. Sums that cancel are measured relative to the whole gradient.
TEST(Bf16, EveryLayoutIsAsCloseToFp32AsOneRank) {
  for (const Start start : {Start::Dense, Start::Copy, Start::SharedExpert}) {
    Switches s;
    s.start = start;
    s.every = 2;
    s.tight = true;
    s.chunks = 3;
    Config c = config_of(s);
    SCOPED_TRACE(s.text());
    c.train.micro_batch_size = 1;
    c.train.seq_length = mpi_session().size() == 6 ? 12 : mpi_session().size() == 8 ? 8 : c.train.seq_length;
    c.train.global_batch_size = mpi_session().size();
    const Fill fill = rounded(random_fill());
    c.dtype = "fp32";
    // Where bf16 chooses other experts, it is another function.
    const FixedSequences data = clear_sequences(c, fill, c.train.global_batch_size, 0.1);
    const Reference exact = one_rank_reference(c, fill, data);
    c.dtype = "bf16";
    const Reference one = one_rank_reference(c, fill, data);
    Reference sets = exact;
    sets.routing = as_sets(exact.routing, c.model.num_experts_per_tok);
    ASSERT_EQ(as_sets(one.routing, c.model.num_experts_per_tok), sets.routing);
    double alone = 0;
    for (std::size_t i = 0; i < exact.gradients.size(); ++i)
      alone += std::pow(distance(one.gradients[i], exact.gradients[i]), 2);
    const ParamTable table = make_global_table(c.model);
    for (const Parallelism& p : legal_layouts(c.model)) {
      SCOPED_TRACE(p.text());
      const Rig rig;
      const Mesh mesh = make_test_mesh(rig, p);
      Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
      fill(t);
      Routing routing = routing_of(t, data);
      routing.chosen = as_sets(routing.chosen, c.model.num_experts_per_tok);
      ASSERT_EQ(different_choices(t, routing, sets), 0);
      const StepResult got = compute_gradients(t, data.source());
      EXPECT_NEAR(got.loss, exact.result.loss, 0.004 * exact.result.loss);
      EXPECT_NEAR(got.aux_loss, exact.result.aux_loss, 0.01 * exact.result.aux_loss);
      const std::vector<double> differences = gradient_differences(t, exact.gradients);
      double all = 0;
      for (std::size_t i = 0; i < table.rows.size(); ++i) {
        EXPECT_LE(differences[i], exact.norms[i] / 16 + exact.norm / 4096)
            << table.rows[i].name << ", norm " << exact.norms[i] << " of " << exact.norm;
        all += differences[i] * differences[i];
      }
      EXPECT_LE(std::sqrt(all), 2 * std::sqrt(alone)) << "of " << exact.norm;
    }
  }
}

}  // namespace
}  // namespace upcycle::test
