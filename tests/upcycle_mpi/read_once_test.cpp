#include "parallel/model/weights.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "tests/mpi_tests.h"
#include "tests/upcycle/models.h"

// A weight is read once per host, however many of its ranks want it and whatever they make of it.
namespace upcycle::test {
namespace {

const std::vector<std::int32_t> kProbe = {5, 1, 36, 0, 7, 7, 12, 30};

// Counts the elements it is asked for.
class Counting final : public TensorSource {
 public:
  explicit Counting(const ModelConfig& model) : drawn_(model, 5) {}
  const std::string& name() const override { return drawn_.name(); }
  const ModelConfig& model() const override { return drawn_.model(); }
  bool has(const std::string& tensor) const override { return drawn_.has(tensor); }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    drawn_.read(tensor, part, out);
    elements += static_cast<double>(part.size());
  }
  double elements = 0;

 private:
  DrawnModel drawn_;
};

struct ReadOnce : ::testing::Test {
  Rig rig;
  Config config() const {
    Config c;
    c.dtype = "fp32";
    c.model = dense_model();
    c.train.steps = 1;
    c.train.seq_length = 8;
    c.train.micro_batch_size = 1;
    c.train.global_batch_size = mpi_session().size();
    c.parallel.imbalance_factor = 8;
    return c;
  }
};

TEST_F(ReadOnce, WeightsThatEveryReplicaLoads) {
  for (const int tp : {1, 2}) {
    const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, tp);
    Config c = config();
    c.parallel.tp = tp;
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    Counting source(c.model);
    load_trainer_weights(t, source);
    EXPECT_EQ(mesh.world->sum_of(source.elements), static_cast<double>(count_parameters(c.model).total)) << tp;
    DrawnModel same(c.model, 5);
    for (const ParamRow& row : t.table().rows) {
      const Tensor held = view_row(row, t.memory.weights.dense, t.memory.weights.expert);
      EXPECT_TRUE(
          same_bits({held.as<float>(), static_cast<std::size_t>(row.part.size())}, read(same, row.name, row.part)))
          << row.name;
    }
  }
}

TEST_F(ReadOnce, TheDenseModelThatIsUpcycled) {
  const int ranks = mpi_session().size();
  for (const int ep : {1, std::min(ranks, 4)}) {
    const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 1, ep);
    for (const UpcycleConfig& how : {UpcycleConfig{}, UpcycleConfig{"virtual_group", "down"}}) {
      Config c = config();
      c.parallel.ep = ep;
      c.upcycle = how;
      c.model = upcycled_model(dense_model(), how.mode == "copy" ? experts(4, 2) : experts(4, 4, 5), how, "test");
      Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
      Counting source(dense_model());
      EXPECT_LE(upcycle_from_checkpoint(t, source, kProbe).change, 1e-5);
      EXPECT_EQ(mesh.world->sum_of(source.elements), static_cast<double>(count_parameters(dense_model()).total));
    }
  }
}

}  // namespace
}  // namespace upcycle::test
