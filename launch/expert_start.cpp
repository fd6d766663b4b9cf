#include "launch/expert_start.h"

#include "core/check.h"
#include "core/config/parse.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/model/weights.h"
#include "parallel/upcycle/rules.h"
#include "parallel/upcycle/upcycled_source.h"

namespace upcycle {
namespace {

// Random weights, as training draws them and rounds them to its parameters' type.
class DrawnSource final : public TensorSource {
 public:
  DrawnSource(const ModelConfig& model, const Config& config)
      : model_(model),
        seed_(static_cast<std::uint64_t>(config.seed)),
        dtype_(config.storage()),
        table_(make_global_table(model)) {}
  const std::string& name() const override { return name_; }
  const ModelConfig& model() const override { return model_; }
  bool has(const std::string& tensor) const override { return table_.find(tensor) != nullptr; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    const ParamRow* const row = table_.find(tensor);
    UPCYCLE_CHECK(row != nullptr, "no tensor {} in the drawn model", tensor);
    draw_values(*row, part, seed_, out);
    if (dtype_ == DType::BF16)
      for (std::int64_t i = 0; i < part.size(); ++i) out[i] = to_float(to_bf16(out[i]));
  }

 private:
  std::string name_ = "random weights";
  ModelConfig model_;
  std::uint64_t seed_;
  DType dtype_;
  ParamTable table_;
};

RunStart make_start(const Config& c, const ModelConfig& moe, const std::string& name) {
  if (c.upcycle.at_step >= 0)
    input_error("it upcycled at step {} (upcycle.at_step) the model that it had trained until then", c.upcycle.at_step);
  RunStart start;
  if (!c.init.upcycle.empty()) {
    start.from = open_model(c.init.upcycle);
    const ModelConfig target = upcycled_model(start.from->model(), c.model, c.upcycle, name);
    start.model = make_upcycled_source(*start.from, target, c.upcycle, static_cast<std::uint64_t>(c.seed));
  } else if (!c.init.load.empty()) {
    start.model = open_model(c.init.load);
  } else {
    start.model = std::make_unique<DrawnSource>(moe, c);
  }
  const ParamTable now = make_global_table(moe), then = make_global_table(start.model->model());
  for (const ParamRow& row : now.rows) {
    if (row.expert < 0) continue;
    const ParamRow* const same = then.find(row.name);
    if (same == nullptr || same->rows != row.rows || same->columns != row.columns)
      input_error("{}: found another model than the run started from, which had {} of {} x {}",
                  c.init.upcycle.empty() ? c.init.load : c.init.upcycle, row.name, row.rows, row.columns);
  }
  return start;
}

}  // namespace

RunStart start_of_run(const TensorSource& model) {
  const std::string &name = model.name(), what = "no cosine with the experts' start";
  const auto* const checkpoint = dynamic_cast<const Checkpoint*>(&model);
  if (checkpoint == nullptr || checkpoint->info().config.empty()) {
    log_warn("{}: {} is not a run's checkpoint and does not say what it started from", what, name);
    return {};
  }
  try {
    const std::string manifest = checkpoint->directory() + "/manifest.json";
    return make_start(parse_config_text(checkpoint->info().config, manifest, {}), model.model(), manifest);
  } catch (const InputError& e) {
    log_warn("{}: the start of {} can not be made again: {}", what, name, e.what());
    return {};
  }
}

}  // namespace upcycle
