#include <gtest/gtest.h>

#include "parallel/model/transformer.h"
#include "tests/forwarding_communicator.h"
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// Sums over replicas that read and write only when they are waited for: memory that was used again too early, or is
// read too early, shows in the gradients.
namespace upcycle::test {
namespace {

class LateSums final : public ForwardingCommunicator {
 public:
  explicit LateSums(const std::shared_ptr<Communicator>& inner)
      : ForwardingCommunicator(inner), calls_(std::make_shared<Calls>(*inner)) {}
  Event reduce_scatter(const Tensor& out, const Tensor& in) override {
    calls_->all.emplace_back(out, in);
    return {calls_, calls_->all.size()};
  }

 private:
  struct Calls final : Progress {
    explicit Calls(Communicator& group_) : group(group_) {}
    void poll() override {}
    void finish(std::uint64_t ticket) override {
      for (; done < ticket; ++done) wait(group.reduce_scatter(all[done].first, all[done].second));
    }
    Communicator& group;
    std::vector<std::pair<Tensor, Tensor>> all;
    std::uint64_t done = 0;
  };
  std::shared_ptr<Calls> calls_;
};

Config config_of(bool moe, bool tied, std::int64_t zero_stage, const char* gradient_dtype = "fp32") {
  Config c = moe ? small_moe_config() : small_config();
  c.model.num_hidden_layers = 3;
  c.model.tie_word_embeddings = tied;
  c.train.global_batch_size = 12;  // three microbatches per rank
  c.train.zero_stage = zero_stage;
  c.train.gradient_dtype = gradient_dtype;
  return c;
}

std::vector<float> owned_gradients(Config config, bool late, bool one_slot = false) {
  const Rig rig;
  Mesh mesh = make_test_mesh(*rig.device, *rig.stream);
  if (late)
    for (auto* group : {&mesh.dp, &mesh.edp}) *group = std::make_shared<LateSums>(*group);
  Trainer t = random_trainer(rig, config, mesh);
  if (one_slot) {  // a mistake: a part takes the memory of the one before it, whose sum is under way
    std::fill(t.memory.slots.dense.begin(), t.memory.slots.dense.end(), 0);
    bind_gradients(*t.model, [&](const ParamRow& row) { return gradient_place(t.table(), t.memory, row); });
  }
  const FixedSequences data = random_sequences(12, config.train.seq_length, config.model.vocab_size, 3);
  (void)compute_gradients(t, data.source());
  std::vector<float> all;
  for (const OwnedPiece& p : owned_pieces(t.table(), mesh.at, true)) {
    const std::vector<float> g = floats_of(t, gradient_piece(t.table(), t.memory, p));
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}

TEST(LateSums, GiveTheSameGradients) {
  for (const bool moe : {false, true})
    for (const bool tied : {false, true})
      for (const Config& c :
           {config_of(moe, tied, 2), config_of(moe, tied, 1, "bf16"), config_of(moe, tied, 2, "bf16")})
        EXPECT_TRUE(owned_gradients(c, false) == owned_gradients(c, true));
}

TEST(LateSums, NoticeASlotThatIsUsedAgainTooEarly) {
  for (const Config& c : {config_of(false, false, 2), config_of(false, false, 1, "bf16")})
    EXPECT_TRUE(owned_gradients(c, true, true) != owned_gradients(c, false));
}

}  // namespace
}  // namespace upcycle::test
