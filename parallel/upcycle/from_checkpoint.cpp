#include "parallel/upcycle/from_checkpoint.h"

#include <chrono>

#include "core/error.h"
#include "parallel/checkpoint/load.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/dense_statistics.h"
#include "parallel/upcycle/load_upcycled.h"

namespace upcycle {
namespace {

constexpr std::size_t kBuffer = std::size_t{32} << 20;

}  // namespace

FlatPair dense_slices(const Trainer& t, const ModelConfig& dense, IdleMemory& idle, Arena& own) {
  const DType dtype = t.config.storage();
  const std::int64_t size = make_param_table(dense, t.mesh->layout, t.mesh->at).dense.size;
  return {take_idle(idle, own, *t.device, dtype, size), Tensor(nullptr, dtype, {0})};
}

UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe) {
  const ParamTable table = make_param_table(dense.model(), t.mesh->layout, t.mesh->at);
  Arena own("dense probe");
  IdleMemory idle = idle_gradients(t);
  const FlatPair weights = dense_slices(t, dense.model(), idle, own);
  const auto start = std::chrono::steady_clock::now();
  Staging staging(*t.device, *t.stream);
  const ModelConfig& moe = t.config.model;
  const ExpertMaker maker(moe, t.config.upcycle, static_cast<std::uint64_t>(t.config.seed),
                          t.config.upcycle.drop_ratio > 0
                              ? file_statistics(dense, moe, *t.mesh->world, *t.device, *t.stream)
                              : DenseStatistics{});
  // One pass over the dense model gives both: its slices for the check, and the experts.
  std::vector<Want> slices;
  for (const ParamRow& row : table.rows) {
    if (!dense.has(row.name)) input_error("{}: no tensor {}; the dense model has it", dense.name(), row.name);
    slices.push_back({row.name, row.part, [&](const Rectangle& part, const float* values) {
                        store_rows(row, part, values, staging, weights.dense, weights.expert);
                      }});
  }
  std::vector<const ParamRow*> rows;
  for (const ParamRow& row : t.table().rows) rows.push_back(&row);
  load_upcycled(rows, dense, maker, kBuffer, store_trainer_rows(t, staging), std::move(slices), t.mesh->host.get());
  std::fill(t.optimizer.row_steps.begin(), t.optimizer.row_steps.end(), 0);

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const std::vector<float> before = probe_logits(t, dense.model(), weights, idle, probe);
  own.free();
  const std::vector<float> after = probe_logits(t, moe, t.memory.weights, idle_gradients(t), probe);
  UpcycleReport report = judge_change(t, relative_change(before, after, *t.mesh->tp));
  report.seconds = seconds;
  return report;
}

}  // namespace upcycle
