#include "parallel/train/reduction.h"

#include "kernels/ops.h"
#include "parallel/train/offload.h"

namespace upcycle {

void zero_gradients(Optimizer& o, TrainMemory& memory) {
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
    if (memory.grads.of(g).size() > 0) o.ops->fill(*o.stream, memory.grads.of(g), 0);
}

namespace {

// f(group, bucket) for the buckets of one part.
template <class F>
void for_buckets(const Optimizer& o, std::int64_t layer, const F& f) {
  for (const ParamGroup g : {ParamGroup::Dense, ParamGroup::Expert})
    for (const Bucket& b : o.table->group(g).buckets)
      if (b.layer == layer) f(g, b);
}

// Whether each microbatch's gradients of a group are reduced, and not its sums.
bool reduces_each(const Optimizer& o, const TrainMemory& memory, ParamGroup g) {
  return memory.storage.zero_stage == 2 && o.table->group(g).ranks > 1;
}

// A bucket's gradients, in its slot or where the whole model's lie -> their sum over the replicas, in the owned part.
struct Reduction {
  Tensor mine, all;
};
Reduction reduction_of(const Optimizer& o, const TrainMemory& memory, ParamGroup g, const Bucket& b) {
  const FlatGroup& flat = o.table->group(g);
  if (memory.slots.serve(g) && !reduces_each(o, memory, g))
    return {reduced_part(flat, memory.grads.of(g), b), memory.slots.of(g, b)};
  const Tensor all = memory.slots.serve(g) ? memory.slots.of(g, b) : memory.grads.of(g).slice_rows(b.begin, b.end);
  return {all.slice_rows(flat.owned_begin(b) - b.begin, flat.owned_end(b) - b.begin), all};
}

// What a microbatch has added in the slot of a bucket of bf16 sums joins them. `last`: the slot then holds the sums.
void add_to_sums(Optimizer& o, TrainMemory& memory, ParamGroup g, const Bucket& b, bool last) {
  const Tensor slot = memory.slots.of(g, b), sums = memory.grads.of(g).slice_rows(b.begin, b.end);
  o.ops->add(*o.stream, sums, sums, slot);
  if (last) o.ops->convert(*o.stream, slot, sums);
}

// Waits for the sums of the parts above `layer`, the first in flight; those of slots are added to the owned sums.
void finish_sums(Optimizer& o, TrainMemory& memory, std::int64_t layer) {
  auto sum = o.sums.begin();
  for (; sum != o.sums.end() && sum->bucket->layer > layer; ++sum) {
    const Bucket& b = *sum->bucket;
    o.stream->wait(sum->event);
    if (!reduces_each(o, memory, sum->group)) continue;
    const Tensor mine = reduction_of(o, memory, sum->group, b).mine,
                 sums = memory.grads.of(sum->group).slice_rows(b.shard_begin, b.shard_begin + mine.size());
    o.ops->add(*o.stream, sums, sums, mine);
  }
  o.sums.erase(o.sums.begin(), sum);
}

void empty_slots(Optimizer& o, TrainMemory& memory, std::int64_t layer) {
  for_buckets(o, layer, [&](ParamGroup g, const Bucket& b) {
    if (memory.slots.serve(g)) o.ops->fill(*o.stream, memory.slots.of(g, b), 0);
  });
}

void sum_over_tp(Optimizer& o, TrainMemory& memory, const OwnedRange& r) {
  const Tensor x = raw_gradient(*o.table, memory, ParamGroup::Dense, r.begin, r.end);
  if (x.dtype == DType::F32) {
    o.sums_over_tp.push_back(o.mesh->tp->all_reduce(x));
    return;
  }
  const Tensor wide = memory.slots.memory.slice_rows(0, x.size());  // NCCL would round bf16 at every rank
  o.ops->convert(*o.stream, wide, x);
  o.stream->wait(o.mesh->tp->all_reduce(wide));
  o.ops->convert(*o.stream, x, wide);
}

constexpr std::int64_t kAll = -2;  // below every part

// Makes ready the slots of the part below `layer`. They lie where the sums before this part's do.
void empty_next_slots(Optimizer& o, TrainMemory& memory, std::int64_t layer) {
  if (memory.slots.size == 0) return;
  finish_sums(o, memory, layer);
  if (layer - 1 > (memory.slots.tied ? -1 : kAll)) empty_slots(o, memory, layer - 1);
}

}  // namespace

void start_backward(Optimizer& o, TrainMemory& memory) {
  if (memory.slots.size == 0) return;
  finish_sums(o, memory, kAll);  // of the microbatch before
  empty_slots(o, memory, o.table->dense.buckets.back().layer);
  if (memory.slots.tied) empty_slots(o, memory, -1);
}

void start_reduction(Optimizer& o, TrainMemory& memory, std::int64_t layer, bool last) {
  for_buckets(o, layer, [&](ParamGroup g, const Bucket& b) {
    const bool each = reduces_each(o, memory, g), in_slot = memory.slots.serve(g), alone = o.replicas(g).size() == 1;
    if (in_slot && !each) add_to_sums(o, memory, g, b, last && !alone);
    if (!each && (!last || (in_slot && alone))) return;
    const Reduction r = reduction_of(o, memory, g, b);
    o.sums.push_back({&b, g, o.replicas(g).reduce_scatter(r.mine, r.all)});
  });
  empty_next_slots(o, memory, layer);
  // Sums that leave slots are finished with the next part.
  if (last) start_offload(o, memory, memory.slots.size > 0 ? layer + 1 : layer);
}

void drop_gradients(Optimizer& o, TrainMemory& memory, std::int64_t layer) { empty_next_slots(o, memory, layer); }

void finish_reduction(Optimizer& o, TrainMemory& memory) {
  if (memory.slots.size > 0) {
    finish_sums(o, memory, kAll);
    for (const OwnedRange& r : o.replicated) sum_over_tp(o, memory, r);
  }
  for (const BucketSum& sum : o.sums) {
    o.stream->wait(sum.event);
    if (sum.group != ParamGroup::Dense) continue;
    for (const OwnedRange& r : o.replicated)
      if (r.begin >= sum.bucket->begin && r.begin < sum.bucket->end) sum_over_tp(o, memory, r);
  }
  o.sums.clear();
  for (const Event& sum : o.sums_over_tp) o.stream->wait(sum);
  o.sums_over_tp.clear();
  finish_offload(o, memory);
}

Tensor fp32_gradient(Optimizer& o, const TrainMemory& memory, const OwnedPiece& p) {
  const Tensor x = gradient_piece(*o.table, memory, p);
  if (x.dtype == DType::F32) return x;
  const Tensor wide = memory.slots.memory.slice_rows(0, x.size());
  o.ops->convert(*o.stream, wide, x);
  return wide;
}

void start_norm(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  o.ops->fill(*o.stream, memory.sum_squares, 0);
  for (const OwnedPiece& p : o.counted)
    o.ops->sum_squares(*o.stream, o.workspace, memory.sum_squares, fp32_gradient(o, memory, p));
  o.device->copy_to_host(*o.stream, &sum_squares, memory.sum_squares.data, sizeof sum_squares);
}

void clip_gradients(Optimizer& o, TrainMemory& memory, double& sum_squares) {
  sum_squares = o.mesh->world->sum_of(sum_squares);
  o.device->copy_from_host(*o.stream, memory.sum_squares.data, &sum_squares, sizeof sum_squares);
  o.ops->clip_scale(*o.stream, memory.scale, memory.sum_squares, static_cast<float>(o.config.clip_grad));
  clip_on_host(o, sum_squares);
}

}  // namespace upcycle
