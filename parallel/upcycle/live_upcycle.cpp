#include "parallel/upcycle/live_upcycle.h"

#include "parallel/model/transformer.h"
#include "parallel/upcycle/dense_statistics.h"
#include "parallel/upcycle/live_exchange.h"
#include "parallel/upcycle/live_weights.h"

namespace upcycle {

void convert_live(const Trainer& dense, Trainer& moe) {
  const Config& c = moe.config;
  const ModelConfig& from = dense.config.model;
  const Mesh& mesh = *moe.mesh;
  const ExpertMaker maker(c.model, c.upcycle, static_cast<std::uint64_t>(c.seed),
                          c.upcycle.drop_ratio > 0 ? live_statistics(dense, c.model) : DenseStatistics{});
  const bool masters_move = c.storage() == DType::BF16;
  const bool round_masters = masters_move && !maker.commutes_with_rounding();

  const auto plan_rounds = [&](LiveState state) {
    LiveExchange plan = plan_exchange(state, from, maker, mesh.layout, mesh.rank);
    agree_on_rounds(plan, *mesh.world);
    return plan;
  };

  dense.model->arrivals.wait_all(*dense.stream);
  copy_retained(dense, moe);
  draw_routers(maker, moe);
  if (!round_masters) make_local_experts(dense, maker, moe);
  if (masters_move) exchange_shards(plan_rounds(LiveState::Masters), dense, maker, StateKind::Master, moe);
  if (round_masters) gather_experts(moe);
  if (!masters_move) masters_from_weights(moe.optimizer, moe.memory);  // where they are not the weights themselves
  if (const int moments = c.train.moments(); moments > 0) {
    const LiveExchange plan = plan_rounds(LiveState::Moments);
    exchange_shards(plan, dense, maker, StateKind::Moment1, moe);
    if (moments > 1) exchange_shards(plan, dense, maker, StateKind::Moment2, moe);
  }
  for (std::size_t i = 0; i < moe.table().rows.size(); ++i) {
    const ParamRow* was = dense.table().find(retained_tensor(moe.table().rows[i]));
    if (was != nullptr)
      moe.optimizer.row_steps[i] = dense.optimizer.row_steps[static_cast<std::size_t>(was - dense.table().rows.data())];
  }
  moe.step = dense.step;
  moe.consumed_samples = dense.consumed_samples;
  moe.tokens = dense.tokens;
  moe.flops = dense.flops;
  moe.wall_seconds = dense.wall_seconds;
  moe.skips.total = dense.skips.total;  // the losses were another model's
}

LiveUpcycle upcycle_live(Trainer dense, const Config& config, std::span<const std::int32_t> probe) {
  const std::vector<float> before =
      probe_logits(dense, dense.config.model, dense.memory.weights, idle_gradients(dense), probe);
  LiveUpcycle result{make_trainer(config, *dense.mesh, *dense.device, *dense.stream, *dense.ops, dense.host_ops), {}};
  Trainer& moe = result.trainer;
  convert_live(dense, moe);
  const std::vector<float> after = probe_logits(moe, config.model, moe.memory.weights, idle_gradients(moe), probe);
  result.report = judge_change(moe, relative_change(before, after, *moe.mesh->tp));
  return result;
}

}  // namespace upcycle
