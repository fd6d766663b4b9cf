#include "parallel/train/train_memory.h"

#include "parallel/train/offload.h"

namespace upcycle {
namespace {

FlatPair take_pair(Arena& arena, DType dtype, std::int64_t dense, std::int64_t expert) {
  return {arena.take(dtype, {dense}), arena.take(dtype, {expert})};
}

void layout(TrainMemory& memory, const ParamTable& table) {
  const StateForm& form = memory.form;
  memory.weights = take_pair(memory.parameters, form.weights, table.dense.size, table.expert.size);
  const auto sums = [&](const FlatGroup& g) { return memory.storage.zero_stage == 2 ? g.shard_size : g.size; };
  memory.grads = take_pair(memory.gradients, memory.storage.dtype, sums(table.dense), sums(table.expert));
  const auto needs_slots = [&](const FlatGroup& g) {
    return g.size > 0 && (memory.storage.dtype != DType::F32 || (memory.storage.zero_stage == 2 && g.ranks > 1));
  };
  memory.slots = take_slots(memory.gradients, table, {needs_slots(table.dense), needs_slots(table.expert)});
  const bool on_host = form.memory == Arena::Memory::Host;
  Arena& state = on_host ? memory.host_state : memory.optimizer;
  const auto shard = [&](DType dtype) {
    return take_pair(state, dtype, table.dense.shard_size, table.expert.shard_size);
  };
  if (form.weights != DType::F32 || on_host) memory.master = shard(form.split_masters ? DType::BF16 : DType::F32);
  if (form.split_masters)
    memory.ties =
        take_pair(state, DType::I32, bit_words(table, ParamGroup::Dense), bit_words(table, ParamGroup::Expert));
  if (form.moments > 0) memory.m = shard(form.moment);
  if (form.moments > 1) memory.v = shard(form.moment);
  memory.sum_squares = memory.optimizer.take(DType::F64, {1});
  memory.scale = memory.optimizer.take(DType::F32, {1});
}

Tensor slice(const Tensor& flat, std::int64_t begin, std::int64_t size) { return flat.slice_rows(begin, begin + size); }

}  // namespace

StateForm state_form(const Config& c) {
  return {c.storage(), c.train.master_dtype == "bf16_remainder", c.train.moments(),
          c.train.moment_dtype == "bf16" ? DType::BF16 : DType::F32,
          offloads(c) ? Arena::Memory::Host : Arena::Memory::Device};
}

TrainMemory make_train_memory(const ParamTable& table, const StateForm& form, Device& device,
                              const GradientStorage& storage) {
  TrainMemory memory;
  memory.form = form;
  memory.storage = storage;
  layout(memory, table);
  memory.parameters.allocate(device);
  memory.gradients.allocate(device);
  memory.optimizer.allocate(device);
  if (form.memory == Arena::Memory::Host) memory.host_state.allocate(device, form.memory);
  layout(memory, table);
  return memory;
}

std::vector<MemoryClass> plan_train_memory(const ParamTable& table, const StateForm& form,
                                           const GradientStorage& storage) {
  TrainMemory memory;
  memory.form = form;
  memory.storage = storage;
  layout(memory, table);
  std::vector<MemoryClass> classes{{"parameters", memory.parameters.high_water()},
                                   {"gradients", memory.gradients.high_water()},
                                   {"optimizer", memory.optimizer.high_water()}};
  if (form.memory == Arena::Memory::Host)
    classes.push_back({memory.host_state.name(), memory.host_state.high_water(), true});
  return classes;
}

Tensor piece_of(const FlatPair& flat, const OwnedPiece& piece) {
  return slice(flat.of(piece.row->group), piece.flat, piece.part.size());
}

Tensor shard_piece_of(const FlatPair& shards, const OwnedPiece& piece) {
  return slice(shards.of(piece.row->group), piece.shard, piece.part.size());
}

Tensor master_piece(const TrainMemory& memory, const OwnedPiece& piece) {
  return memory.separate_masters() ? shard_piece_of(memory.master, piece) : piece_of(memory.weights, piece);
}

Staging state_staging(const TrainMemory& memory, Device& device, Stream& stream, std::size_t piece_bytes) {
  if (memory.host_state.allocated()) return Staging();
  return Staging(device, stream, piece_bytes);
}

Tensor gradient_piece(const ParamTable& table, const TrainMemory& memory, const OwnedPiece& p) {
  return raw_gradient(table, memory, p.row->group, p.flat, p.flat + p.part.size());
}

DType raw_type(const GradientStorage& storage, const FlatGroup& group) {
  return storage.zero_stage == 2 || group.ranks == 1 ? storage.dtype : DType::F32;
}

Tensor raw_gradient(const ParamTable& table, const TrainMemory& memory, ParamGroup g, std::int64_t begin,
                    std::int64_t end) {
  const Bucket& bucket = table.bucket_at(g, begin);
  const FlatGroup& group = table.group(g);
  const std::int64_t at = begin - group.owned_begin(bucket);
  if (memory.storage.zero_stage == 2) return slice(memory.grads.of(g), bucket.shard_begin + at, end - begin);
  if (memory.storage.dtype == raw_type(memory.storage, group)) return slice(memory.grads.of(g), begin, end - begin);
  return slice(reduced_part(group, memory.grads.of(g), bucket), at, end - begin);
}

Tensor reduced_part(const FlatGroup& group, const Tensor& sums, const Bucket& b) {
  return Tensor(sums.slice_rows(b.begin, b.end).data, DType::F32, {(b.end - b.begin) / group.ranks});
}

Tensor gradient_place(const ParamTable& table, const TrainMemory& memory, const ParamRow& row) {
  if (!memory.slots.serve(row.group)) return slice(memory.grads.of(row.group), row.offset, 0);
  const Bucket& bucket = table.bucket_of(row);
  return slice(memory.slots.of(row.group, bucket), row.offset - bucket.begin, 0);
}

Tensor ties_of(const TrainMemory& memory, const OwnedPiece& piece) {
  if (!memory.form.split_masters) return {};
  return slice(memory.ties.of(piece.row->group), piece.words, (piece.part.size() + 31) / 32);
}

}  // namespace upcycle
