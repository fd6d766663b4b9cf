#include "launch/bench/fit_machine.h"

#include <cmath>

#include "parallel/serve/predicted_server.h"

namespace upcycle {
namespace {

double squared_errors(const Machine& machine, const std::vector<MeasuredModel>& measured, const Layout& layout,
                      DType dtype) {
  double sum = 0;
  for (const MeasuredModel& m : measured) {
    const std::vector<OfflineRow> predicted = predicted_rows(machine, m, layout, dtype);
    for (std::size_t i = 0; i < m.rows.size(); ++i)
      sum += std::pow(std::log(predicted[i].T_PP / m.rows[i].T_PP), 2) +
             std::pow(std::log(predicted[i].T_TG / m.rows[i].T_TG), 2);
  }
  return sum;
}

constexpr double Machine::*kFitted[] = {
    &Machine::memory_rate,  &Machine::product_rate_bf16, &Machine::expert_efficiency, &Machine::attention_efficiency,
    &Machine::link_rate,    &Machine::link_latency,      &Machine::layer_time,        &Machine::moe_layer_time,
    &Machine::moe_row_time, &Machine::host_step_time,    &Machine::host_token_time};

}  // namespace

std::vector<OfflineRow> predicted_rows(const Machine& machine, const MeasuredModel& measured, const Layout& layout,
                                       DType dtype) {
  const auto server = make_predicted_server({measured.model, layout, dtype, machine}, measured.options);
  std::vector<OfflineRow> rows;
  for (const OfflineRow& r : measured.rows) {
    const auto row =
        measure_offline(*server, r.PP, r.TG, r.B, measured.model.vocab_size, measured.options.max_model_len);
    rows.push_back(row.value());
  }
  return rows;
}

Machine any_machine(double memory_bytes) {
  Machine m;
  m.name = "this machine";
  m.memory_bytes = memory_bytes;
  m.memory_utilization = 0.9;
  m.memory_rate = 1e10;
  m.product_rate_bf16 = m.product_rate_fp32 = 1e11;
  m.expert_efficiency = m.attention_efficiency = 0.5;
  m.link_rate = 1e9;
  m.link_latency = m.layer_time = m.moe_layer_time = m.host_token_time = 1e-5;
  m.moe_row_time = 1e-7;
  m.host_step_time = 1e-4;
  return m;
}

Machine fit_machine(const Machine& start, const std::vector<MeasuredModel>& measured, const Layout& layout,
                    DType dtype) {
  Machine best = start;
  double least = squared_errors(best, measured, layout, dtype);
  for (double factor = 4; factor > 1.01; factor = std::sqrt(factor))
    for (bool better = true; better;) {
      better = false;
      for (double Machine::*const constant : kFitted)
        for (const double step : {factor, 1 / factor}) {
          Machine m = best;
          m.*constant *= step;
          m.product_rate_fp32 = m.product_rate_bf16;  // of the type that was measured
          if (!possible(m)) continue;
          const double sum = squared_errors(m, measured, layout, dtype);
          if (sum >= least * (1 - 1e-6)) continue;
          least = sum;
          best = m;
          better = true;
        }
    }
  return best;
}

}  // namespace upcycle
