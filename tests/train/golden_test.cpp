#include <gtest/gtest.h>

#include <cmath>

#include "data/safetensors.h"
#include "parallel/checkpoint/load.h"
#include "parallel/model/transformer.h"
#include "parallel/models/hf_config.h"
#include "parallel/models/huggingface.h"
#include "parallel/models/stored_place.h"
#include "tests/data/stored_values.h"
#include "tests/golden_models.h"
#include "tests/train/rig.h"

// Against PyTorch + transformers in fp64 (tests/golden/make_golden.py): loss, router losses, routing and every
// parameter's raw gradient.
namespace upcycle {
namespace {

std::vector<float> read_all(const SafetensorsFile& f, const std::string& name) {
  const StoredTensor& info = f.info(name);
  std::vector<float> values(static_cast<std::size_t>(info.rows * info.columns));
  f.read_rows(name, 0, info.rows, values.data());
  return values;
}

std::vector<std::int32_t> read_ids(const SafetensorsFile& f, const std::string& name) {
  return stored_values<std::int32_t>(f.path(), f.info(name));
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  Golden() : file(SafetensorsFile::open(golden_folder(GetParam()) + "/golden.safetensors")) {
    const auto source = open_huggingface(golden_folder(GetParam()));
    const auto shape = file.info("ids").shape;
    B = shape[0];
    S = shape[1];
    Config c;
    c.dtype = "fp32";
    c.model = source->model();
    c.train.steps = 1;
    c.train.seq_length = S;
    c.train.micro_batch_size = c.train.global_batch_size = B;
    if (c.model.is_moe()) {
      c.model.router_aux_loss_coef = read_all(file, "coef_aux")[0];
      c.model.router_z_loss_coef = read_all(file, "coef_z")[0];
    }
    config = c;
    places = stored_places(*read_hf_config(golden_folder(GetParam())).family, c.model);
    sequences = {S, read_ids(file, "ids"), read_ids(file, "targets")};
  }

  Trainer trainer(const char* recompute = "none") {
    Config c = config;
    c.train.recompute = recompute;
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    const auto source = open_huggingface(golden_folder(GetParam()));
    Staging staging(*t.device, *t.stream);
    load_weights(t.table(), *source, staging, t.memory.weights.dense, t.memory.weights.expert);
    return t;
  }

  // PyTorch's gradient of the row, stored where the family stores the row.
  std::vector<float> golden_gradient(const ParamRow& row) const {
    const StoredPlace& place = places.at(row.name);
    std::vector<float> values(static_cast<std::size_t>(row.global_size()));
    file.read_rectangle("grad." + place.tensor, place.row, row.rows, place.column, row.columns, values.data());
    return values;
  }

  void compare_gradients(Trainer& t) {
    const StepResult r = compute_gradients(t, sequences.source());
    EXPECT_NEAR(r.loss, read_all(file, "loss")[0], 1e-5);
    double all = 0;
    for (const ParamRow& row : t.table().rows) {
      const double n = norm(golden_gradient(row));
      all += n * n;
    }
    all = std::sqrt(all);
    for (const ParamRow& row : t.table().rows) {
      const std::vector<float> want = golden_gradient(row), got = gradient_of(t, row);
      // A gradient that is mathematically zero (an expert without tokens, a router's under k = 1) is bounded
      // absolutely.
      const double bound = norm(want) > 1e-7 * all ? 1e-4 * norm(want) : 1e-7 * all;
      EXPECT_LE(distance(got, want), bound) << row.name << " norm " << norm(want) << " of " << all;
    }
  }

  Rig rig;
  Mesh mesh = single_mesh(rig);
  SafetensorsFile file;
  Config config;
  std::map<std::string, StoredPlace> places;
  std::int64_t B = 0, S = 0;
  FixedSequences sequences;
};

TEST_P(Golden, LossAndEveryGradient) {
  Trainer t = trainer();
  compare_gradients(t);
}

TEST_P(Golden, LossAndEveryGradientWithRecompute) {
  Trainer t = trainer("full");
  compare_gradients(t);
}

TEST_P(Golden, PerTokenLossAndLogits) {
  Trainer t = trainer();
  (void)compute_gradients(t, sequences.source());
  const std::vector<float> nll = read_all(file, "nll");
  const std::vector<float> got = floats_of(t, t.model->activations.head.nll);
  for (std::size_t i = 0; i < nll.size(); ++i)
    if (sequences.targets[i] >= 0) {
      EXPECT_NEAR(got[i], nll[i], 2e-5) << "token " << i;
    }

  const std::vector<float> want = read_all(file, "logits");
  Arena arena("logits");
  (void)arena.take(DType::F32, {B * S, config.model.vocab_size});
  arena.allocate(*rig.device);
  const Tensor out = arena.take(DType::F32, {B * S, config.model.vocab_size});
  logits(*t.model, out, 0, B * S);
  EXPECT_LE(distance(floats_of(t, out), want), 1e-5 * norm(want));
}

TEST_P(Golden, RouterLossesAndRouting) {
  if (!config.model.is_moe()) {
    EXPECT_FALSE(file.contains("aux_loss"));
    return;
  }
  Trainer t = trainer();
  const StepResult r = compute_gradients(t, sequences.source());
  EXPECT_NEAR(r.aux_loss, read_all(file, "aux_loss")[0], 1e-5);
  EXPECT_NEAR(r.z_loss, read_all(file, "z_loss")[0], 1e-4);
  for (std::int64_t l = 0; l < config.model.num_hidden_layers; ++l) {
    if (!config.model.is_moe_layer(l)) continue;
    const std::vector<std::int32_t> want = read_ids(file, "experts." + std::to_string(l));
    EXPECT_EQ(chosen_experts(t, l), want) << "layer " << l;
  }
}

INSTANTIATE_TEST_SUITE_P(Transformers, Golden, ::testing::ValuesIn(golden_models()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace upcycle
