#include "parallel/train/reduction.h"

#include "kernels/ops.h"

namespace upcycle {

void zero_gradients(Optimizer& o, TrainMemory& memory) {
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
    if (memory.grads.of(g).size() > 0) o.ops->fill(*o.stream, memory.grads.of(g), 0);
}

void start_reduction(Optimizer& o, TrainMemory& memory, std::int64_t layer) {
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert}) {
    const FlatGroup& flat = o.table->group(g);
    const Tensor& grads = memory.grads.of(g);
    for (const Bucket& b : flat.buckets) {
      if (b.layer != layer) continue;
      const Tensor mine = grads.slice_rows(flat.owned_begin(b), flat.owned_end(b));
      o.sums.push_back({&b, g, o.replicas(g).reduce_scatter(mine, grads.slice_rows(b.begin, b.end))});
    }
  }
}

void finish_reduction(Optimizer& o, TrainMemory& memory) {
  for (const BucketSum& sum : o.sums) {
    o.stream->wait(sum.event);
    if (sum.group != ParamGroup::Dense) continue;
    for (const OwnedRange& r : o.replicated)
      if (r.begin >= sum.bucket->begin && r.begin < sum.bucket->end)
        o.sums_over_tp.push_back(o.mesh->tp->all_reduce(memory.grads.dense.slice_rows(r.begin, r.end)));
  }
  o.sums.clear();
  for (const Event& sum : o.sums_over_tp) o.stream->wait(sum);
  o.sums_over_tp.clear();
}

void start_norm(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  o.ops->fill(*o.stream, memory.sum_squares, 0);
  for (const OwnedPiece& p : o.counted)
    o.ops->sum_squares(*o.stream, o.workspace, memory.sum_squares, piece_of(memory.grads, p));
  o.device->copy_to_host(*o.stream, &sum_squares, memory.sum_squares.data, sizeof sum_squares);
}

void clip_gradients(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  sum_squares = o.mesh->world->sum_of(sum_squares);
  o.device->copy_from_host(*o.stream, memory.sum_squares.data, &sum_squares, sizeof sum_squares);
  o.ops->clip_scale(*o.stream, memory.scale, memory.sum_squares, static_cast<float>(o.config.clip_grad));
}

}  // namespace upcycle
