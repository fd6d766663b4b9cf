#include "parallel/train/offload.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/ops.h"
#include "parallel/train/update.h"

namespace upcycle {
namespace {

// Cut between rows of the matrix, so that a block is a piece too.
std::vector<Offload::Block> make_blocks(const Optimizer& o, const GradientStorage& gradients, std::int64_t most) {
  std::vector<Offload::Block> blocks;
  for (const OwnedPiece& p : o.updated) {
    const std::int64_t width = p.part.columns, step = std::max<std::int64_t>(1, most / width);
    const std::int64_t part = o.table->bucket_of(*p.row).layer;
    for (std::int64_t r = 0; r < p.part.rows; r += step)
      blocks.push_back({{p.row,
                         {p.part.row + r, p.part.column, std::min(step, p.part.rows - r), width},
                         p.flat + r * width,
                         p.shard + r * width},
                        part,
                        raw_type(gradients, o.table->group(p.row->group)),
                        {}});
  }
  return blocks;
}

void layout_buffers(Offload& f, DType weights, std::size_t most_slots) {
  std::int64_t largest = 0, widened = 0;
  DType gradients = DType::BF16;  // or the wider one, if blocks have both
  for (const Offload::Block& b : f.blocks) {
    largest = std::max(largest, b.piece.part.size());
    if (b.gradient == DType::F32)
      gradients = DType::F32;
    else
      widened = std::max(widened, b.piece.part.size());
  }
  f.slots.clear();
  for (std::size_t i = 0; i < std::min(most_slots, f.blocks.size()); ++i)
    f.slots.push_back(f.buffers.take(gradients, {largest}));
  if (widened > 0) f.wide = f.buffers.take(DType::F32, {widened});
  for (Offload::Upload& u : f.uploads) u.weights = f.buffers.take(weights, {largest});
  f.sum_squares = f.buffers.take(DType::F64, {1});
  f.scale = f.buffers.take(DType::F32, {1});
}

Tensor first(const Tensor& buffer, std::int64_t n) { return buffer.slice_rows(0, n); }

// A block's gradient in its slot.
Tensor slot_of(const Offload& f, std::size_t block) {
  const Offload::Block& b = f.blocks[block];
  return Tensor(f.slots[block % f.slots.size()].data, b.gradient, {b.piece.part.size()});
}

// After what f.down waits for already.
void copy_down(Optimizer& o, const TrainMemory& memory, std::size_t block) {
  Offload& f = *o.offload;
  Offload::Block& b = f.blocks[block];
  const Tensor gradient = gradient_piece(*o.table, memory, b.piece), slot = slot_of(f, block);
  UPCYCLE_CHECK(gradient.bytes() == slot.bytes(), "{}: a gradient of another type than planned", b.piece.row->name);
  o.device->copy_to_host(*f.down, slot.data, gradient.data, gradient.bytes());
  b.down = f.down->record();
}

// A block's gradient, which has come, in fp32.
Tensor fp32_slot(Offload& f, std::size_t block) {
  const Tensor gradient = slot_of(f, block);
  if (gradient.dtype == DType::F32) return gradient;
  const Tensor wide = first(f.wide, gradient.size());
  f.ops->convert(*f.on_cpu, wide, gradient);
  return wide;
}

}  // namespace

bool offloads(const Config& config) { return config.train.optimizer_offload && config.device == "cuda"; }

std::shared_ptr<Offload> make_offload(const Optimizer& o, const TrainMemory& memory, Ops& on_cpu, OffloadSizes sizes) {
  auto f = std::make_shared<Offload>();
  f->blocks = make_blocks(o, memory.storage, sizes.block);
  const auto layout = [&] { layout_buffers(*f, memory.weights.dense.dtype, sizes.slots); };
  layout();
  f->buffers.allocate(*o.device, Arena::Memory::Host);
  layout();
  f->started.assign(f->slots.size(), false);
  f->ops = &on_cpu;
  f->on_cpu = make_cpu_device()->make_stream();
  f->down = o.device->make_stream();
  f->up = o.device->make_stream();
  return f;
}

OffloadCost plan_offload(const Optimizer& o, const StateForm& state, const GradientStorage& gradients,
                         OffloadSizes sizes) {
  Offload f;
  f.blocks = make_blocks(o, gradients, sizes.block);
  layout_buffers(f, state.weights, sizes.slots);
  OffloadCost cost;
  double elements = 0, widened = 0;
  for (const Offload::Block& b : f.blocks) {
    const auto n = static_cast<double>(b.piece.part.size());
    elements += n;
    cost.down += n * static_cast<double>(size_of(b.gradient));
    if (b.gradient != DType::F32) widened += n * static_cast<double>(sizeof(float));
  }
  cost.buffers = f.buffers.high_water();
  cost.up = elements * static_cast<double>(size_of(state.weights));
  // Masters and moments are read and written, a gradient and a weight written by one side and read by the other.
  const auto kept =
      static_cast<double>(sizeof(float) + static_cast<std::size_t>(state.moments) * size_of(state.moment));
  cost.host_memory = 2 * (elements * kept + cost.down + widened + cost.up);
  return cost;
}

void start_offload(Optimizer& o, const TrainMemory& memory, std::int64_t layer) {
  if (o.offload == nullptr) return;
  Offload& f = *o.offload;
  f.down->wait(o.stream->record());  // in a group of one a sum is complete when the gradient is
  for (const BucketSum& sum : o.sums)
    if (sum.bucket->layer == layer) f.down->wait(sum.event);
  for (std::size_t i = 0; i < f.slots.size(); ++i) {
    if (f.blocks[i].part != layer || (o.mesh->layout.tp > 1 && f.blocks[i].piece.row->replicated_over_tp)) continue;
    copy_down(o, memory, i);
    f.started[i] = true;
  }
}

void finish_offload(Optimizer& o, const TrainMemory& memory) {
  if (o.offload == nullptr) return;
  Offload& f = *o.offload;
  f.down->wait(o.stream->record());
  for (std::size_t i = 0; i < f.slots.size(); ++i)
    if (!f.started[i]) copy_down(o, memory, i);
  // For the next step too, if this one ends without an update.
  f.started.assign(f.slots.size(), false);
  f.next = 0;
}

void clip_on_host(Optimizer& o, double sum_squares) {
  if (o.offload == nullptr) return;
  Offload& f = *o.offload;
  *f.sum_squares.as<double>() = sum_squares;
  f.ops->clip_scale(*f.on_cpu, f.scale, f.sum_squares, static_cast<float>(o.config.clip_grad));
}

void update_on_host(Optimizer& o, const TrainMemory& memory, const OwnedPiece& p, double lr) {
  Offload& f = *o.offload;
  f.up->wait(o.stream->record());  // what read the weights last
  for (std::int64_t done = 0; done < p.part.size();) {
    UPCYCLE_CHECK(f.next < f.blocks.size() && f.blocks[f.next].piece.flat == p.flat + done, "{}: another block's turn",
                  p.row->name);
    const std::size_t block = f.next++;
    const OwnedPiece& piece = f.blocks[block].piece;
    const std::int64_t n = piece.part.size();
    Offload::Upload& upload = f.uploads[block % f.uploads.size()];
    const Tensor weights = first(upload.weights, n);
    finish(f.blocks[block].down);
    finish(upload.sent);
    update_piece(o, memory, piece, {f.ops, f.on_cpu.get(), weights, fp32_slot(f, block), f.scale}, lr);
    // The slot has been read.
    if (block + f.slots.size() < f.blocks.size()) copy_down(o, memory, block + f.slots.size());
    o.device->copy_from_host(*f.up, piece_of(memory.weights, piece).data, weights.data, weights.bytes());
    upload.sent = f.up->record();
    done += n;
  }
  o.stream->wait(f.up->record());
}

}  // namespace upcycle
