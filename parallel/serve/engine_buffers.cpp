#include "parallel/serve/engine_buffers.h"

#include <algorithm>

namespace upcycle {
namespace {

StepTensors take_step_tensors(Arena& arena, const SchedulerOptions& o, std::int64_t T) {
  const std::int64_t n = o.max_num_seqs, most_pages = (o.max_model_len + o.page_rows - 1) / o.page_rows;
  StepTensors s;
  s.rows = arena.take(DType::I32, {3 * T + 7 * n + 1});
  s.pages = arena.take(DType::I32, {n, most_pages});
  std::int64_t next = 0;
  const auto part = [&](DType dtype, std::int64_t size) {
    Tensor t = s.rows.slice_rows(next, next + size);
    t.dtype = dtype;
    next += size;
    return t;
  };
  s.tokens = part(DType::I32, T);
  s.positions = part(DType::I32, T);
  s.slots = part(DType::I32, T);
  s.offsets = part(DType::I32, n + 1);
  s.lengths = part(DType::I32, n);
  s.logit_rows = part(DType::I32, n);
  s.temperature = part(DType::F32, n);
  s.top_k = part(DType::I32, n);
  s.top_p = part(DType::F32, n);
  s.uniform = part(DType::F32, n);
  return s;
}

}  // namespace

std::int64_t most_rows(const SchedulerOptions& o, int tp) {
  const std::int64_t rows = std::max(o.max_num_batched_tokens, o.max_num_seqs);
  return (rows + tp - 1) / tp * tp;
}

std::size_t page_bytes(const ModelConfig& model, const Layout& layout, DType dtype, std::int64_t page_rows) {
  const Sizes s = sizes_of(model, layout, {});
  return static_cast<std::size_t>(2 * s.L * s.K_local * s.D * page_rows) * size_of(dtype);
}

EngineBuffers lay_out_engine(Arena& cache, Arena& activations, const ModelConfig& model, DType dtype,
                             const SchedulerOptions& o, DeviceKind computes, Device& device, Stream& stream, Ops& ops,
                             const Mesh& mesh) {
  const int tp = mesh.layout.tp, dp = mesh.layout.dp;
  PassShape shape;
  shape.S = most_rows(o, tp);
  shape.positions = o.max_model_len;
  shape.sequences = o.max_num_seqs;
  shape.training = false;
  shape.dtype = dtype;
  if (computes == DeviceKind::Cpu) shape.expert_row_align = 1;
  EngineBuffers b;
  b.model = std::make_unique<Transformer>(make_transformer(activations, model, shape, device, stream, ops, mesh));
  b.whole = b.model->activations;
  const Sizes& s = b.model->sizes;
  for (std::int64_t l = 0; l < s.L; ++l) {
    const Tensor k = cache.take(dtype, {o.pages, s.K_local, o.page_rows, s.D});
    b.cache.push_back({k, cache.take(dtype, {o.pages, s.K_local, o.page_rows, s.D})});
  }
  const ArenaLabel label(activations, "step inputs and logits");
  b.step = take_step_tensors(activations, o, shape.S);
  b.hidden = activations.take(dtype, {o.max_num_seqs, s.H});
  b.logits = activations.take(DType::F32, {o.max_num_seqs * s.V_local});
  if (tp > 1) b.all_logits = activations.take(DType::F32, {tp * o.max_num_seqs * s.V_local});
  b.drawn = activations.take(DType::I32, {o.max_num_seqs + 2});
  if (dp > 1) b.all_drawn = activations.take(DType::I32, {dp, o.max_num_seqs + 2});
  return b;
}

}  // namespace upcycle
