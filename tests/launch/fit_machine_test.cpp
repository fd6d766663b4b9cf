#include "launch/bench/fit_machine.h"

#include <gtest/gtest.h>

namespace upcycle {
namespace {

MeasuredModel asked(std::int64_t experts) {
  MeasuredModel m;
  m.model.hidden_size = 512;
  m.model.intermediate_size = 1408;
  m.model.num_hidden_layers = 4;
  m.model.num_attention_heads = m.model.num_key_value_heads = 8;
  m.model.vocab_size = 4096;
  m.model.num_local_experts = experts;
  m.options.max_model_len = 1024;
  m.options.max_num_seqs = 32;
  m.options.pages = 32 * 64;
  for (const auto& [PP, B] : {std::pair{16, 1}, {16, 8}, {32, 16}, {128, 1}, {300, 1}})
    m.rows.push_back({PP, 6, B, 0, 0});
  return m;
}

// Steps of a machine whose constants are not known: the fitted one takes as long, also for what it was not fitted to.
TEST(FitMachine, FindsOneThatTakesAsLong) {
  Machine hidden = any_machine(1e10);
  hidden.memory_rate = 2.3e10;
  hidden.product_rate_bf16 = hidden.product_rate_fp32 = 3.1e11;
  hidden.expert_efficiency = 0.7;
  hidden.moe_row_time = 2e-6;
  hidden.host_step_time = 3e-4;
  hidden.host_token_time = 4e-5;
  std::vector<MeasuredModel> measured = {asked(0), asked(8)};
  for (MeasuredModel& m : measured) m.rows = predicted_rows(hidden, m, {}, DType::F32);
  const Machine found = fit_machine(any_machine(1e10), measured, {}, DType::F32);
  MeasuredModel other = asked(4);
  other.model.hidden_size = 768;
  measured.push_back(other);
  measured.back().rows = predicted_rows(hidden, other, {}, DType::F32);
  for (const MeasuredModel& m : measured) {
    const std::vector<OfflineRow> rows = predicted_rows(found, m, {}, DType::F32);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_NEAR(rows[i].T_PP / m.rows[i].T_PP, 1, 0.1)
          << m.model.num_local_experts << " " << rows[i].PP << " x " << rows[i].B;
      EXPECT_NEAR(rows[i].T_TG / m.rows[i].T_TG, 1, 0.1)
          << m.model.num_local_experts << " " << rows[i].PP << " x " << rows[i].B;
    }
  }
  EXPECT_EQ(found.link_rate, any_machine(1).link_rate);  // one rank: no row says anything of it
}

}  // namespace
}  // namespace upcycle
