#include <gtest/gtest.h>

#include <cmath>

#include "parallel/train/step.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

// A short training on bf16 sums stays beside that on fp32 ones: its gradients differ by less than 1 %, far less than
// those of two batches do.
TEST(GradientDtype, ATrainingOnBf16SumsStaysBesideFp32s) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  for (const bool moe : {false, true})
    for (const char* dtype : {"fp32", "bf16"}) {
      Config c = moe ? small_moe_config() : small_config();
      c.dtype = dtype;
      c.model.tie_word_embeddings = !moe;
      c.train.micro_batch_size = 1;
      c.train.global_batch_size = 8;
      c.train.lr = 1e-2;
      c.train.freeze = {"model.layers.0.self_attn.*"};
      Trainer wide = random_trainer(rig, c, mesh);
      c.train.gradient_dtype = "bf16";
      Trainer narrow = random_trainer(rig, c, mesh);
      const FixedSequences data = random_sequences(16, 9, c.model.vocab_size, 3);
      double first = 0, want = 0, got = 0;
      for (int i = 0; i < 40; ++i) {
        want = train_step(wide, data.source()).loss;
        got = train_step(narrow, data.source()).loss;
        if (i == 0) first = want;
        EXPECT_NEAR(got, want, 0.02) << dtype << " step " << i;
      }
      EXPECT_LT(want, 0.8 * first);
      for (const auto& [name, p] : state_of(narrow).parameters) {
        if (name.starts_with("model.layers.0.self_attn.")) {
          EXPECT_EQ(p.steps, 0) << name;
        }
      }
    }
}

}  // namespace
}  // namespace upcycle
