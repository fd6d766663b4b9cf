#include "parallel/upcycle/from_checkpoint.h"

#include <chrono>

#include "parallel/checkpoint/load.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/dense_statistics.h"
#include "parallel/upcycle/upcycled_source.h"

namespace upcycle {
namespace {

constexpr std::size_t kBuffer = std::size_t{32} << 20;

// Flat buffers of the dense model: inside the MoE's gradient arena, or, where a rank's few small experts make that
// smaller than the dense slices, in an arena that lives as long as the check.
struct DenseBuffers {
  FlatPair weights;
  IdleMemory rest;  // of the gradient arena
};
DenseBuffers dense_buffers(Trainer& t, Arena& own, const ParamTable& dense, DType dtype) {
  const std::int64_t size = dense.dense.size;
  const IdleMemory idle = idle_gradients(t);
  const FlatPair inside{Tensor(idle.data, dtype, {size}), Tensor(nullptr, dtype, {0})};
  if (inside.dense.bytes() <= idle.bytes) return {inside, idle.from(inside.dense.bytes())};
  (void)own.take(dtype, {size});
  own.allocate(*t.device);
  return {{own.take(dtype, {size}), Tensor(nullptr, dtype, {0})}, idle};
}

}  // namespace

UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe) {
  const ParamTable table = make_param_table(dense.model(), t.mesh->layout, t.mesh->at);
  Arena own("dense probe");
  const DenseBuffers borrowed = dense_buffers(t, own, table, t.config.storage());
  const auto start = std::chrono::steady_clock::now();
  Staging staging(*t.device, *t.stream);
  const ModelConfig& moe = t.config.model;
  const ExpertMaker maker(moe, t.config.upcycle, static_cast<std::uint64_t>(t.config.seed),
                          t.config.upcycle.drop_ratio > 0
                              ? file_statistics(dense, moe, *t.mesh->world, *t.device, *t.stream)
                              : DenseStatistics{});
  // One reading of the dense model gives both: its slices for the check, and the experts.
  std::vector<Want> slices;
  for (const ParamRow& row : table.rows) {
    if (!dense.has(row.name)) input_error("{}: no tensor {}; the dense model has it", dense.name(), row.name);
    slices.push_back({row.name, row.part, [&](const Rectangle& part, const float* values) {
                        store_rows(row, part, values, staging, borrowed.weights.dense, borrowed.weights.expert);
                      }});
  }
  std::vector<const ParamRow*> rows;
  for (const ParamRow& row : t.table().rows) rows.push_back(&row);
  load_upcycled(rows, dense, maker, kBuffer, store_trainer_rows(t, staging), std::move(slices), t.mesh->host.get());
  std::fill(t.optimizer.row_steps.begin(), t.optimizer.row_steps.end(), 0);

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const std::vector<float> before = probe_logits(t, dense.model(), borrowed.weights, borrowed.rest, probe);
  own.free();
  const std::vector<float> after = probe_logits(t, moe, t.memory.weights, idle_gradients(t), probe);
  UpcycleReport report = judge_change(t, relative_change(before, after, *t.mesh->tp));
  report.seconds = seconds;
  return report;
}

}  // namespace upcycle
