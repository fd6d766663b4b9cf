#include "parallel/train/look_again.h"

#include <fmt/core.h>

#include "kernels/ops.h"
#include "parallel/train/faults.h"
#include "parallel/train/microbatch.h"
#include "parallel/train/reduction.h"

namespace upcycle {
namespace {

class Looker : public Observer {
 public:
  Looker(Transformer& model, Observer* before, const Look& look) : model_(model), before_(before), look_(look) {
    model_.observer = this;
  }
  ~Looker() override { model_.observer = nullptr; }
  Looker(const Looker&) = delete;
  void begin_microbatch() override {}
  void activation(std::int64_t layer, const char* name, const Tensor& x) override {
    if (before_ != nullptr) before_->activation(layer, name, x);
    show(name_of(layer, name), "", x);
  }
  void gradient(std::int64_t layer, const char* name, const Tensor& dx) override {
    show("the gradient " + name_of(layer, name), "", dx);
  }
  void show(const std::string& name, const std::string& parameter, const Tensor& x) {
    look_({place_++, name, parameter, x});
  }

 private:
  static std::string name_of(std::int64_t layer, const char* name) {
    return layer < 0 ? name : fmt::format("layers.{}.{}", layer, name);
  }
  Transformer& model_;
  Observer* before_;
  const Look& look_;
  std::int64_t place_ = 0;
};

}  // namespace

void look_at_microbatch(Trainer& t, std::int64_t j, double valid, const Look& look) {
  Looker looker(*t.model, t.faults.get(), look);
  const Tensor& sums = t.model->activations.step_sums;
  t.ops->fill(*t.stream, sums, 0);
  if (const Tensor& running = t.model->activations.running) t.ops->fill(*t.stream, running, 0);
  zero_gradients(t.optimizer, t.memory);
  run_microbatch(t, j, valid, [&](std::int64_t layer) {
    for (const ParamRow& row : t.table().rows) {
      if (t.table().bucket_of(row).layer != layer) continue;
      Tensor gradient = gradient_place(t.table(), t.memory, row);
      gradient.shape[0] = row.size();
      looker.show("the gradient of " + row.name, row.name, gradient);
    }
    drop_gradients(t.optimizer, t.memory, layer);
  });
  looker.show("the loss", "", sums);
}

}  // namespace upcycle
