#include "parallel/upcycle/logit_check.h"

#include <cmath>

#include "parallel/upcycle/rules.h"

namespace upcycle {

std::vector<float> probe_logits(const Trainer& t, const ModelConfig& model, const FlatPair& weights,
                                std::span<const std::int32_t> tokens) {
  const auto T = static_cast<std::int64_t>(tokens.size());
  PassShape pass;
  pass.S = T;
  pass.training = false;
  pass.dtype = t.config.storage();
  pass.imbalance_factor = t.config.parallel.imbalance_factor;
  Arena arena("logit probe");
  Batch batch;
  Tensor out;
  const auto layout = [&] {
    Transformer m = make_transformer(arena, model, pass, *t.device, *t.stream, *t.ops, *t.mesh);
    batch = take_batch(arena, pass);
    out = arena.take(DType::F32, {T, m.sizes.V_local});
    return m;
  };
  (void)layout();
  arena.allocate(*t.device);
  Transformer m = layout();
  bind_weights(m, weights.dense, weights.expert);
  fill_batch_shape(*t.device, *t.stream, batch, pass);
  t.device->copy_from_host(*t.stream, batch.tokens.data, tokens.data(), batch.tokens.bytes());
  forward_hidden(m, batch, 1);
  logits(m, out, 0, T);

  std::vector<float> host(static_cast<std::size_t>(out.size()));
  t.device->copy_to_host(*t.stream, host.data(), out.data, out.bytes());
  t.stream->synchronize();
  std::vector<float> valid;  // without the vocabulary's padding
  for (std::int64_t r = 0; r < T; ++r) {
    const auto row = host.begin() + r * m.sizes.V_local;
    valid.insert(valid.end(), row, row + m.sizes.V_valid);
  }
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
