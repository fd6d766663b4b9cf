#include <gtest/gtest.h>

#include "core/config/describe.h"
#include "data/hash.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

// The optimizer's state in other forms than fp32: runs, and their checkpoints.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

Config config_of(const char* optimizer, bool moe = true) {
  Config c = moe ? small_moe_config() : small_config();
  c.dtype = "bf16";
  c.model.tie_word_embeddings = !moe;
  c.train.optimizer = optimizer;
  c.train.lr = 1e-2;
  return c;
}

const FixedSequences data = random_sequences(40, 9, small_config().model.vocab_size, 5);

void train(Trainer& t, int steps) {
  for (int i = 0; i < steps; ++i) (void)train_step(t, data.source());
}

void save(Trainer& t, const std::string& run) {
  CheckpointWriter writer(run, *mesh.world, 0);
  Snapshot snapshot = make_snapshot(t);
  CheckpointInfo info = checkpoint_info(t);
  info.config = to_json(t.config);
  writer.start(info, take_snapshot(t, snapshot), {});
  writer.finish();
}

Trainer resume(const Config& c, const std::string& run) {
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  restore_trainer(t, *open_checkpoint(run));
  return t;
}

// Masters beside their rounding are the fp32 masters: the same run, the same files, and either goes on from the
// other's.
TEST(StateForms, RemaindersTrainAsFp32Masters) {
  for (const char* optimizer : {"adamw", "lion", "sgd"})
    for (const bool moe : {false, true}) {
      SCOPED_TRACE(std::string(optimizer) + (moe ? " moe" : " dense"));
      const TemporaryFolder folder;
      const Config whole = config_of(optimizer, moe);
      Config split = whole;
      split.train.master_dtype = "bf16_remainder";
      Trainer a = random_trainer(rig, whole, mesh), b = random_trainer(rig, split, mesh);
      for (int i = 0; i < 6; ++i) {
        const StepResult want = train_step(a, data.source()), got = train_step(b, data.source());
        EXPECT_EQ(got.loss, want.loss);
        EXPECT_EQ(got.grad_norm, want.grad_norm);
      }
      expect_same_state(state_of(b), state_of(a));
      save(a, folder.file("whole"));
      save(b, folder.file("split"));
      for (const char* name : {"model.rank00000.h5", "optimizer.rank00000.h5"}) {
        if (whole.train.moments() == 0 && name[0] == 'o') continue;
        const std::string step = std::string("/step_00000006/") + name;
        EXPECT_EQ(hash_file(folder.file("whole") + step), hash_file(folder.file("split") + step)) << name;
      }
      Trainer a_goes_on = resume(split, folder.file("whole")), b_goes_on = resume(whole, folder.file("split"));
      expect_same_state(state_of(a_goes_on), state_of(a));
      expect_same_state(state_of(b_goes_on), state_of(a));
      for (Trainer* t : {&a, &a_goes_on, &b_goes_on}) train(*t, 3);
      expect_same_state(state_of(a_goes_on), state_of(a));
      expect_same_state(state_of(b_goes_on), state_of(a));
    }
}

// Moments in bf16 follow from the run's seed and step alone, whatever form the masters have.
TEST(StateForms, RoundedMomentsDependOnNothingElse) {
  for (const char* optimizer : {"adamw", "lion"}) {
    SCOPED_TRACE(optimizer);
    Config c = config_of(optimizer);
    c.train.moment_dtype = "bf16";
    Trainer a = random_trainer(rig, c, mesh);
    c.train.master_dtype = "bf16_remainder";
    Trainer b = random_trainer(rig, c, mesh);
    train(a, 4);
    train(b, 4);
    const TrainedState state = state_of(a);
    expect_same_state(state_of(b), state);
    for (const auto& [name, p] : state.parameters)
      for (const auto& moment : {p.m, p.v})
        for (const float x : moment) ASSERT_EQ(x, to_float(to_bf16(x))) << name;

    Trainer other = random_trainer(rig, c, mesh);  // the same weights
    for (DrawStream& s : other.optimizer.draws) ++s.seed;
    train(other, 4);
    for (const auto& [name, p] : state_of(other).parameters) EXPECT_FALSE(p.m == state.parameters.at(name).m) << name;
  }
}

// Every form reads every other's checkpoint: bf16 moments are fp32 numbers, fp32 ones are rounded to nearest even.
TEST(StateForms, RoundedMomentsComeFromAndGoToFp32) {
  for (const char* optimizer : {"adamw", "lion"}) {
    SCOPED_TRACE(optimizer);
    const TemporaryFolder folder;
    const Config whole = config_of(optimizer);
    Config rounded = whole;
    rounded.train.moment_dtype = "bf16";
    rounded.train.master_dtype = "bf16_remainder";
    Trainer a = random_trainer(rig, whole, mesh), b = random_trainer(rig, rounded, mesh);
    train(a, 3);
    train(b, 3);
    save(a, folder.file("whole"));
    save(b, folder.file("rounded"));
    expect_same_state(state_of(resume(whole, folder.file("rounded"))), state_of(b));

    TrainedState want = state_of(a);
    for (auto& [name, p] : want.parameters)
      for (std::vector<float>* moment : {&p.m, &p.v})
        for (float& x : *moment) x = to_float(to_bf16(x));
    expect_same_state(state_of(resume(rounded, folder.file("whole"))), want);
  }
}

}  // namespace
}  // namespace upcycle
