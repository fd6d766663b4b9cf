#include "parallel/upcycle/from_checkpoint.h"

#include "parallel/train/state.h"
#include "parallel/upcycle/upcycled_source.h"

namespace upcycle {
namespace {

// Flat buffers of the dense model inside the MoE's gradient arena.
FlatPair borrow(const Arena& arena, const ParamTable& dense, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(dense.dense.size) * size_of(dtype);
  UPCYCLE_CHECK(bytes <= arena.capacity(), "the dense model's {} bytes do not fit the {} arena of {} bytes", bytes,
                arena.name(), arena.capacity());
  return {Tensor(arena.data(), dtype, {dense.dense.size}), Tensor(nullptr, dtype, {0})};
}

}  // namespace

UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe) {
  const ParamTable table = make_param_table(dense.model(), t.mesh->layout, t.mesh->at);
  const FlatPair borrowed = borrow(t.memory.gradients, table, t.config.storage());
  load_weights(table, dense, borrowed.dense, borrowed.expert);
  const std::vector<float> before = probe_logits(t, dense.model(), borrowed, probe);

  const auto source =
      make_upcycled_source(dense, t.config.model, t.config.upcycle, static_cast<std::uint64_t>(t.config.seed));
  load_trainer_weights(t, *source);
  const std::vector<float> after = probe_logits(t, t.config.model, t.memory.weights, probe);
  return judge_change(t, relative_change(before, after, *t.mesh->tp));
}

}  // namespace upcycle
