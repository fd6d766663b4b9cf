#include "parallel/upcycle/logit_check.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/upcycle/rules.h"

namespace upcycle {

namespace {

constexpr std::size_t kLogitBytes = std::size_t{8} << 20;

// Hands out one block of idle memory, to an arena that asks for it once.
class IdleDevice final : public Device {
 public:
  IdleDevice(const Trainer& t, const IdleMemory& idle) : t_(t), idle_(idle) {}
  DeviceKind kind() const override { return t_.device->kind(); }
  std::unique_ptr<Stream> make_stream() override { return t_.device->make_stream(); }
  void* allocate(std::size_t bytes) override {
    UPCYCLE_CHECK(bytes <= idle_.bytes, "{} bytes of {} idle ones", bytes, idle_.bytes);
    t_.ops->fill(*t_.stream, Tensor(idle_.data, DType::F32, {static_cast<std::int64_t>(bytes / sizeof(float))}), 0);
    return idle_.data;
  }
  void release(void*, std::size_t) override {}
  void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) override {
    t_.device->copy(stream, kind, to, from, runs);
  }

 private:
  const Trainer& t_;
  IdleMemory idle_;
};

}  // namespace

std::int64_t probe_length(std::int64_t seq_length, int tp) {
  return std::max<std::int64_t>(tp, std::min<std::int64_t>(seq_length, 256) / tp * tp);
}

std::vector<float> probe_logits(const Trainer& t, const ModelConfig& model, const FlatPair& weights,
                                const IdleMemory& idle, std::span<const std::int32_t> tokens) {
  const auto T = static_cast<std::int64_t>(tokens.size());
  PassShape pass;
  pass.S = T;
  pass.training = false;
  pass.dtype = t.config.storage();
  pass.imbalance_factor = t.config.parallel.imbalance_factor;
  IdleDevice borrowed(t, idle);
  Arena arena("logit probe");
  Batch batch;
  Tensor out;
  const auto layout = [&] {
    Transformer m = make_transformer(arena, model, pass, *t.device, *t.stream, *t.ops, *t.mesh);
    batch = take_batch(arena, pass);
    const auto fit = static_cast<std::int64_t>(kLogitBytes / sizeof(float)) / m.sizes.V_local;
    out = arena.take(DType::F32, {std::clamp<std::int64_t>(fit, 1, T), m.sizes.V_local});
    return m;
  };
  (void)layout();
  arena.allocate(arena.high_water() <= idle.bytes ? static_cast<Device&>(borrowed) : *t.device);
  Transformer m = layout();
  bind_weights(m, weights.dense, weights.expert);
  t.model->arrivals.wait_all(*t.stream);
  fill_batch_shape(*t.device, *t.stream, batch, pass);
  t.device->copy_from_host(*t.stream, batch.tokens.data, tokens.data(), batch.tokens.bytes());
  forward_hidden(m, batch, 1);
  logits(m, out, T - out.rows(), out.rows());

  std::vector<float> valid(static_cast<std::size_t>(out.rows() * m.sizes.V_valid));  // without the padding
  for (std::int64_t r = 0; r < out.rows(); ++r)
    t.device->copy_to_host(*t.stream, valid.data() + r * m.sizes.V_valid, out.slice_rows(r, r + 1).data,
                           static_cast<std::size_t>(m.sizes.V_valid) * sizeof(float));
  t.stream->synchronize();
  return valid;
}

double relative_change(std::span<const float> before, std::span<const float> after, Communicator& tp) {
  UPCYCLE_CHECK(before.size() == after.size(), "{} logits before, {} after", before.size(), after.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const double d = static_cast<double>(after[i]) - before[i];
    difference += d * d;
    norm += static_cast<double>(before[i]) * before[i];
  }
  difference = tp.sum_of(difference);
  norm = tp.sum_of(norm);
  return difference == 0 ? 0 : std::sqrt(difference / norm);  // a model of zeros stays one
}

std::string UpcycleReport::text() const {
  return fmt::format("logits changed by {:.3g} (relative L2); {}", change,
                     exact ? fmt::format("this mode promises the dense function, at most {:.0e}", tolerance)
                           : "this mode does not promise the dense function");
}

UpcycleReport judge_change(const Trainer& t, double change) {
  UpcycleReport report{change, promises_exact(t.config.model, t.config.upcycle),
                       t.config.storage() == DType::F32 ? 1e-5 : 2e-2};
  UPCYCLE_CHECK(!report.exact || change <= report.tolerance, "upcycling is wrong: {}", report.text());
  return report;
}

}  // namespace upcycle
