#include "parallel/upcycle/from_checkpoint.h"

#include "parallel/train/state.h"
#include "parallel/upcycle/upcycled_source.h"

namespace upcycle {
namespace {

// Flat buffers of the dense model: inside the MoE's gradient arena, or, where a rank's few small experts make that
// smaller than the dense slices, in an arena that lives as long as the check.
FlatPair dense_buffers(Trainer& t, Arena& own, const ParamTable& dense, DType dtype) {
  const std::int64_t size = dense.dense.size;
  const Arena& gradients = t.memory.gradients;
  const FlatPair inside{Tensor(gradients.data(), dtype, {size}), Tensor(nullptr, dtype, {0})};
  if (inside.dense.bytes() <= gradients.capacity()) return inside;
  (void)own.take(dtype, {size});
  own.allocate(*t.device);
  return {own.take(dtype, {size}), Tensor(nullptr, dtype, {0})};
}

}  // namespace

UpcycleReport upcycle_from_checkpoint(Trainer& t, TensorSource& dense, std::span<const std::int32_t> probe) {
  const ParamTable table = make_param_table(dense.model(), t.mesh->layout, t.mesh->at);
  Arena own("dense probe");
  const FlatPair borrowed = dense_buffers(t, own, table, t.config.storage());
  load_weights(table, dense, borrowed.dense, borrowed.expert);
  const std::vector<float> before = probe_logits(t, dense.model(), borrowed, probe);
  own.free();

  const auto source =
      make_upcycled_source(dense, t.config.model, t.config.upcycle, static_cast<std::uint64_t>(t.config.seed));
  load_trainer_weights(t, *source);
  const std::vector<float> after = probe_logits(t, t.config.model, t.memory.weights, probe);
  return judge_change(t, relative_change(before, after, *t.mesh->tp));
}

}  // namespace upcycle
