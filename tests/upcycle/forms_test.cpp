#include "tests/model_forms.h"

#include "core/error.h"
#include "parallel/models/huggingface.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"
#include "tests/golden_models.h"
#include "tests/upcycle/models.h"

// Upcycling of each family's dense models, random ones (golden), and of layers of other forms than Llama's.
namespace upcycle::test {
namespace {

struct Upcycling {
  const char* name;
  UpcycleConfig upcycle;
  ModelConfig target;
};

// The modes that are exact; F must be even.
std::vector<Upcycling> exact_modes(const ModelConfig& dense) {
  const UpcycleConfig groups{"virtual_group", "down"};
  const std::int64_t slice = dense.intermediate_size / 2;
  ModelConfig shared = experts(4, 2, 0, "softmax_then_topk"), every = experts(8, 4, slice);
  shared.shared_expert = true;
  every.moe_every_n_layers = 2;
  ModelConfig sigmoid = experts(4, 2), sigmoid_groups = experts(4, 2, slice),
              scores = experts(4, 2, 0, "softmax_then_topk");
  for (ModelConfig* m : {&sigmoid, &sigmoid_groups, &scores}) m->router_score = "sigmoid", m->router_bias = true;
  UpcycleConfig even{"copy", "down"};
  even.router_std = 0;
  return {{"copy", {}, experts(4, 2)},
          {"sigmoid", {}, sigmoid},
          {"sigmoid_groups", groups, sigmoid_groups},
          {"sigmoid_scores", even, scores},
          {"top_1", {}, experts(4, 1)},
          {"virtual_group", groups, experts(4, 2, slice)},
          {"every_second_layer", groups, every},
          {"shared_expert", {}, shared}};
}

void expect_exact(TensorSource& dense) {
  Rig rig;
  const Mesh mesh = make_single_mesh();
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 24; ++i) tokens.push_back(i * 7 % static_cast<std::int32_t>(dense.model().vocab_size));
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const std::vector<float> before = logits_of(rig, mesh, dense, dtype, tokens);
    for (const Upcycling& u : exact_modes(dense.model())) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " " + u.name);
      const ModelConfig moe = upcycled_model(dense.model(), u.target, u.upcycle, "test");
      EXPECT_TRUE(promises_exact(moe, u.upcycle));
      EXPECT_EQ(moe.attention_bias, dense.model().attention_bias);
      const auto source = make_upcycled_source(dense, moe, u.upcycle, 3);
      EXPECT_LE(distance(logits_of(rig, mesh, *source, dtype, tokens), before),
                (dtype == DType::F32 ? 1e-5 : 2e-2) * norm(before));
    }
  }
}

class Golden : public ::testing::TestWithParam<std::string> {};
TEST_P(Golden, ExactModesKeepTheFunction) {
  const auto dense = open_huggingface(golden_folder(GetParam()));
  if (dense->model().is_moe()) return;
  if (dense->model().mlp_bias) {
    expect_input_error([&] { upcycled_model(dense->model(), experts(4, 2), {}, "test"); },
                       {"test", "model.mlp_bias", "num_local_experts"});
    return;
  }
  expect_exact(*dense);
}
INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(golden_models()),
                         [](const auto& info) { return info.param; });

class Forms : public ::testing::TestWithParam<ModelForm> {};

TEST_P(Forms, ExactModesKeepTheFunction) {
  DrawnModel dense(GetParam().of(dense_model()), 5);
  expect_exact(dense);
}

// Live conversion and conversion from files give the same parameters.
TEST_P(Forms, ALiveConversionIsThatOfTheSameModel) {
  const Rig rig;
  const Mesh mesh = make_single_mesh();
  const ModelConfig model = GetParam().of(dense_model());
  for (const Upcycling& u : exact_modes(model)) {
    SCOPED_TRACE(u.name);
    Config c = small_config();
    c.model = model;
    c.upcycle = u.upcycle;
    Trainer running = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    DrawnModel dense(model, 5);
    load_trainer_weights(running, dense);
    Config moe = c;
    moe.model = upcycled_model(model, u.target, u.upcycle, "test");
    Trainer from_files = make_trainer(moe, mesh, *rig.device, *rig.stream, *rig.ops);
    const std::vector<std::int32_t> probe{1, 5, 36, 0, 7};
    const UpcycleReport report = upcycle_from_checkpoint(from_files, dense, probe);
    LiveUpcycle live = upcycle_live(std::move(running), moe, probe);
    EXPECT_EQ(live.report.change, report.change);
    const TrainedState a = state_of(live.trainer), b = state_of(from_files);
    for (const auto& [name, p] : b.parameters) EXPECT_EQ(a.parameters.at(name).weight, p.weight) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Forms, ::testing::ValuesIn(kMoeForms),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
