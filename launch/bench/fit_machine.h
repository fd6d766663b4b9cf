#pragma once
#include "core/config/config.h"
#include "launch/bench/offline.h"
#include "parallel/comm/layout.h"
#include "parallel/serve/machine.h"

namespace upcycle {

// Rows of the offline table that an engine gave for a model.
struct MeasuredModel {
  ModelConfig model;
  SchedulerOptions options;
  std::vector<OfflineRow> rows;
};

// Its rows on this machine, as the cost model has them.
std::vector<OfflineRow> predicted_rows(const Machine& machine, const MeasuredModel& measured, const Layout& layout,
                                       DType dtype);

// The constants with which the cost model comes nearest to T_PP and T_TG of all rows: the least sum of squares of
// log(predicted / measured), searched one constant after the other from `start`. One that no row depends on stays.
Machine fit_machine(const Machine& start, const std::vector<MeasuredModel>& measured, const Layout& layout,
                    DType dtype);

// Where fit_machine can start on any machine.
Machine any_machine(double memory_bytes);

}  // namespace upcycle
