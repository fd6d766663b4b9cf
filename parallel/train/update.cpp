#include "parallel/train/update.h"

#include "core/check.h"
#include "kernels/ops.h"
#include "parallel/train/offload.h"
#include "parallel/train/reduction.h"

namespace upcycle {

namespace {

// How one step rounds the moments of a piece in bf16: by seed, name, moment, the parameter's step and the element's
// number in the global matrix, so the same on every layout.
MomentRounding rounding_of(const Optimizer& o, const OwnedPiece& p) {
  const std::size_t row = o.index_of(p);
  const auto stream = [&](std::uint64_t moment) {
    const auto step = static_cast<std::uint64_t>(o.row_steps[row]);
    const auto bits = rng::bits(o.draws[row].seed, o.draws[row].key, 2 * step + moment);
    return DrawStream{std::uint64_t{bits[0]} << 32 | bits[1], std::uint64_t{bits[2]} << 32 | bits[3]};
  };
  const std::int64_t columns = p.row->columns;
  return {stream(0), stream(1), p.part.row * columns + p.part.column, p.part.columns, columns};
}

}  // namespace

void update_piece(const Optimizer& o, const TrainMemory& memory, const OwnedPiece& p, const PieceUpdate& at,
                  double lr) {
  const TrainConfig& c = o.config;
  const int moments = c.moments();
  const UpdateTensors tensors{at.param,
                              master_piece(memory, p),
                              moments > 0 ? shard_piece_of(memory.m, p) : Tensor{},
                              moments > 1 ? shard_piece_of(memory.v, p) : Tensor{},
                              at.grad,
                              ties_of(memory, p),
                              rounding_of(o, p)};
  const auto rate = static_cast<float>(lr), decay = static_cast<float>(o.rates[o.index_of(p)].weight_decay);
  const auto beta1 = static_cast<float>(c.beta1), beta2 = static_cast<float>(c.beta2);
  if (c.optimizer == "sgd")
    at.ops->sgd(*at.stream, tensors, at.scale, rate, decay);
  else if (c.optimizer == "lion")
    at.ops->lion(*at.stream, tensors, at.scale, {rate, beta1, beta2, decay});
  else
    at.ops->adamw(*at.stream, tensors, at.scale,
                  {rate, beta1, beta2, static_cast<float>(c.eps), decay, o.row_steps[o.index_of(p)]});
}

namespace {

void update_piece(Optimizer& o, TrainMemory& memory, const OwnedPiece& p, double lr) {
  if (o.offload != nullptr) return update_on_host(o, memory, p, lr);
  update_piece(o, memory, p, {o.ops, o.stream, piece_of(memory.weights, p), fp32_gradient(o, memory, p), memory.scale},
               lr);
}

Event gather_bucket(Optimizer& o, TrainMemory& memory, ParamGroup g, const Bucket& b) {
  const FlatGroup& flat = o.table->group(g);
  const Tensor& weights = memory.weights.of(g);
  return o.replicas(g).all_gather(weights.slice_rows(b.begin, b.end),
                                  weights.slice_rows(flat.owned_begin(b), flat.owned_end(b)));
}

}  // namespace

void update_parameters(Optimizer& o, TrainMemory& memory, const LearningRates& rates) {
  o.arrivals->wait_all(*o.stream);  // in case no forward came between
  for (std::size_t i = 0; i < o.row_steps.size(); ++i)
    if (o.frozen[i] == 0) ++o.row_steps[i];
  auto piece = o.updated.begin();  // in the order of rows, which is the parts' too
  auto expert = o.table->expert.buckets.begin();
  for (const Bucket& part : o.table->dense.buckets) {  // every part has some
    for (; piece != o.updated.end() && o.table->bucket_of(*piece->row).layer == part.layer; ++piece)
      update_piece(o, memory, *piece, o.rates[o.index_of(*piece)].lr(rates));
    o.arrivals->add(part.layer, gather_bucket(o, memory, ParamGroup::Dense, part));
    if (expert != o.table->expert.buckets.end() && expert->layer == part.layer)
      o.arrivals->add(part.layer, gather_bucket(o, memory, ParamGroup::Expert, *expert++));
  }
  UPCYCLE_CHECK(piece == o.updated.end() && expert == o.table->expert.buckets.end(), "a part was not updated");
}

void gather_parameters(Optimizer& o, TrainMemory& memory, ParamGroup group) {
  for (const Bucket& b : o.table->group(group).buckets) o.arrivals->add(b.layer, gather_bucket(o, memory, group, b));
  o.arrivals->wait_all(*o.stream);
}

}  // namespace upcycle
