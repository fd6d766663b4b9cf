#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/train/faults.h"
#include "parallel/train/findings.h"
#include "parallel/train/wrong_number.h"
#include "tests/mpi_tests.h"
#include "tests/train_mpi/raw_state.h"

// A flipped bit on one rank is found before an update uses it, and named.
namespace upcycle::test {
namespace {

class WrongNumbers : public ::testing::Test {
 protected:
  static int ranks() { return mpi_session().size(); }
  Rig rig;
  Mesh mesh = make_test_mesh(*rig.device, *rig.stream, ranks() == 4 ? 2 : 1, ranks() == 4 ? 2 : 1);
  Mesh tp = make_test_mesh(*rig.device, *rig.stream, ranks() > 1 ? 2 : 1);  // of two ranks all of them
  Config config = [] {
    Config c = small_moe_config();
    c.train.seq_length = 8;
    c.train.micro_batch_size = 1;
    c.train.global_batch_size = 2 * ranks();
    c.train.steps = 100;
    c.train.check_replicas_every = 1;
    c.train.recompute_check_every = 1;
    c.model.shared_expert = true;
    return c;
  }();
  FixedSequences data = random_sequences(40, 8, config.model.vocab_size, 5);

  // A fault in the third step: found in it, with all of `parts` in the same text on every rank, and nothing updated.
  void expect_found(const Config& c, const Mesh& on, const std::string& fault, const std::vector<std::string>& parts) {
    const std::int64_t sample = 2 * c.train.global_batch_size;
    Config faulty = c;
    const auto at = fault.rfind(' ');
    faulty.debug.inject = fmt::format("{} {} {}{}", fault.substr(0, at), sample, sample, fault.substr(at));
    SCOPED_TRACE(faulty.debug.inject);
    Trainer t = random_trainer(rig, faulty, on);
    for (int i = 0; i < 2; ++i) ASSERT_EQ(train_step(t, data.source()).skipped, Skipped::No);
    const RawState before = raw_state(t);
    std::string text;
    try {
      (void)train_step(t, data.source());
    } catch (const WrongNumber& e) {
      text = e.what();
    }
    for (const std::string& part : parts) EXPECT_NE(text.find(part), text.npos) << part << " in '" << text << "'";
    const std::string all = on.world->gather_text(text);
    for (int r = 0; r < on.world->size(); ++r)
      EXPECT_EQ(all.substr(static_cast<std::size_t>(r) * text.size(), text.size()), text);
    EXPECT_EQ(t.step, 2);
    EXPECT_EQ(raw_state(t).row_steps, before.row_steps);
    if (!fault.starts_with("parameter") && !fault.starts_with("moment")) expect_same_bits(raw_state(t), before);
  }
  std::string rank_text(int rank) const {
    return rank_and_host(mesh).replace(0, fmt::format("rank {}", mesh.rank).size(), fmt::format("rank {}", rank));
  }
};

TEST_F(WrongNumbers, OfReplicatedParameters) {
  if (ranks() == 1) return;  // nothing has a copy
  const std::vector<std::string> names = {"model.embed_tokens.weight",
                                          "model.layers.0.self_attn.q_proj.weight",
                                          "model.layers.1.input_layernorm.weight",
                                          "model.layers.1.block_sparse_moe.gate.weight",
                                          "lm_head.weight",
                                          "model.norm.weight"};
  for (int r = 0; r < ranks(); ++r)
    for (const std::string& name : names)
      expect_found(config, mesh, fmt::format("parameter {} {} once", name, r),
                   {"replicas of " + name + " differ", rank_text(r)});
  const ParamTable table = make_param_table(config.model, mesh.layout, mesh.at);
  for (int r = 0; r < ranks(); ++r)
    for (int e = 0; e < 4; ++e) {
      const std::string name = fmt::format("model.layers.0.block_sparse_moe.experts.{}.w2.weight", e);
      if (mesh.world->max_of(mesh.rank == r && table.find(name) != nullptr ? 1 : 0) == 0) continue;
      expect_found(config, mesh, fmt::format("parameter {} {} once", name, r),
                   {"replicas of " + name + " differ within edp", rank_text(r)});
    }
}

TEST_F(WrongNumbers, OfReplicatedMomentsAndMasters) {
  if (ranks() == 1) return;
  for (const char* dtype : {"fp32", "bf16"})
    for (int r = 0; r < ranks(); ++r) {
      Config c = config;
      c.dtype = dtype;
      c.train.moment_dtype = dtype;
      // Of norms and routers each tp rank keeps its own. A rank owns only some of them.
      for (const char* name :
           {"model.layers.0.post_attention_layernorm.weight", "model.layers.1.block_sparse_moe.gate.weight"}) {
        const Trainer t = random_trainer(rig, c, tp);
        const bool owns =
            std::ranges::any_of(t.optimizer.updated, [&](const OwnedPiece& p) { return p.row->name == name; });
        if (tp.world->max_of(tp.rank == r && owns ? 1 : 0) == 0) continue;
        expect_found(c, tp, fmt::format("moment {} {} once", name, r),
                     {fmt::format("replicas of {} (first moment) differ within tp", name), rank_text(r)});
      }
    }
}

TEST_F(WrongNumbers, OfGradientsAndActivations) {
  for (const char* form : {"fp32", "zero2", "bf16"}) {
    Config c = config;
    if (form == std::string("zero2") && ranks() > 1) c.train.zero_stage = 2;
    if (form == std::string("bf16")) c.dtype = c.train.gradient_dtype = "bf16";
    for (int r = 0; r < ranks(); ++r) {
      for (const auto& [value, kind] : {std::pair{"once", "a passing fault"}, {"lasting", "a lasting fault"}}) {
        for (const char* name : {"model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight",
                                 "model.layers.0.block_sparse_moe.gate.weight"})
          expect_found(
              c, mesh, fmt::format("gradient {} {} {}", name, r, value),
              {fmt::format("the gradient of {}, computed twice, came out different on ", name), rank_text(r), kind});
        for (const char* name : {"layers.0.x", "layers.1.mlp", "final_norm"})
          expect_found(c, mesh, fmt::format("activation {} {} {}", name, r, value),
                       {fmt::format("{}, computed twice, came out different on ", name), rank_text(r), kind});
      }
    }
  }
}

// Looking changes nothing.
TEST_F(WrongNumbers, ChecksLeaveNoTrace) {
  for (const char* form : {"fp32", "zero2", "bf16"}) {
    Config c = config;
    if (form == std::string("zero2") && ranks() > 1) c.train.zero_stage = 2;
    if (form == std::string("bf16")) c.dtype = c.train.gradient_dtype = "bf16";
    Config unchecked = c;
    unchecked.train.check_replicas_every = unchecked.train.recompute_check_every = 0;
    Trainer a = random_trainer(rig, c, mesh), b = random_trainer(rig, unchecked, mesh);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(train_step(a, data.source()).loss, train_step(b, data.source()).loss);
    expect_same_bits(raw_state(a), raw_state(b));
  }
}

}  // namespace
}  // namespace upcycle::test
