#include <fmt/core.h>

#include "core/error.h"
#include "kernels/cuda/cuda_device.h"
#include "parallel/train/offload.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/train/rig.h"

// The copies of train.optimizer_offload on streams that hold their work back and pass one another: the same bits in
// every order, and with a mistake planted, other bits.
namespace upcycle {
namespace {

class Deferred {
 public:
  explicit Deferred(std::uint64_t seed) : before_(emul::options().deferred) {
    emul::sync_device();
    emul::options().deferred = true;
    emul::reseed(seed);
  }
  ~Deferred() {
    emul::sync_device();
    emul::options().deferred = before_;
  }
  Deferred(const Deferred&) = delete;

 private:
  bool before_;
};

Config offloaded_config() {
  Config c = small_moe_config();
  c.dtype = "bf16";
  c.device = "cuda";
  c.train.optimizer_offload = true;
  c.train.lr = 1e-2;
  c.train.schedule = "constant";
  return c;
}

const OffloadSizes kSizes{64, 4};
const FixedSequences kData = random_sequences(16, 9, 37, 3);

// Of the streams one may run only when no other can go on.
enum class Late { None, Down, Up };

TrainedState run(const Rig& rig, Late late, void (*spoil)(Offload&), const char* gradients = "fp32") {
  const Mesh mesh = single_mesh(rig);
  Config config = offloaded_config();
  config.train.gradient_dtype = gradients;
  Trainer t = random_trainer(rig, config, mesh);
  t.optimizer.offload = make_offload(t.optimizer, t.memory, *rig.host_ops, kSizes);
  Offload& offload = *t.optimizer.offload;
  spoil(offload);
  if (late != Late::None)
    emul::run_last(static_cast<cudaStream_t>((late == Late::Down ? offload.down : offload.up)->native()));
  for (int i = 0; i < 2; ++i) (void)train_step(t, kData.source());
  return state_of(t);
}

// One that does not wait for what it is told to wait for, or whose events are reached before its work is done.
class CarelessStream final : public Stream {
 public:
  CarelessStream(std::unique_ptr<Stream> of, bool waits, bool records)
      : of_(std::move(of)), waits_(waits), records_(records) {}
  DeviceKind kind() const override { return of_->kind(); }
  Event record() override { return records_ ? of_->record() : Event{}; }
  void wait(const Event& event) override {
    if (waits_) of_->wait(event);
  }
  void synchronize() override { of_->synchronize(); }
  void* native() override { return of_->native(); }
  void attach(Progress& progress) override { of_->attach(progress); }
  void detach(Progress& progress) override { of_->detach(progress); }
  void poll() override { of_->poll(); }

 private:
  std::unique_ptr<Stream> of_;
  bool waits_, records_;
};

struct Mistake {
  const char* name;
  void (*plant)(Offload&);
};
void careless(std::unique_ptr<Stream>& stream, bool waits, bool records) {
  stream = std::make_unique<CarelessStream>(std::move(stream), waits, records);
}
const Mistake kMistakes[] = {
    {"AGradientIsCopiedBeforeItIsComplete", [](Offload& f) { careless(f.down, false, true); }},
    {"AnUpdateBeforeItsGradientHasCome", [](Offload& f) { careless(f.down, true, false); }},
    {"AGradientsBufferIsReusedTooEarly", [](Offload& f) { f.slots[1] = f.slots[0]; }},
    {"AWeightsBufferIsReusedTooEarly", [](Offload& f) { f.uploads[1].weights = f.uploads[0].weights; }},
    {"AForwardBeforeItsWeightsHaveCome", [](Offload& f) { careless(f.up, true, false); }},
};

bool same(const TrainedState& a, const TrainedState& b) { return a.parameters == b.parameters; }

TEST(OffloadSchedules, HaveTheSameBitsAndMistakesOthers) {
  const Rig rig;
  const auto none = [](Offload&) {};
  const TrainedState want = run(rig, Late::None, none), rounded = run(rig, Late::None, none, "bf16");
  EXPECT_FALSE(same(rounded, want));
  const std::pair<std::uint64_t, Late> orders[] = {{1, Late::None}, {2, Late::None}, {3, Late::Down}, {4, Late::Up}};
  for (const auto& [seed, late] : orders) {
    const Deferred deferred(seed);
    EXPECT_TRUE(same(run(rig, late, none), want)) << "seed " << seed;
    EXPECT_TRUE(same(run(rig, late, none, "bf16"), rounded)) << "bf16 gradients, seed " << seed;
  }
  for (const Mistake& mistake : kMistakes) {
    bool noticed = false;
    for (const auto& [seed, late] : orders) {
      const Deferred deferred(seed);
      try {
        noticed = noticed || !same(run(rig, late, mistake.plant), want);
      } catch (const Error&) {  // the loss is not finite
        noticed = true;
      }
    }
    EXPECT_TRUE(noticed) << mistake.name;
  }
}

// A step without an update, as debug.dump takes one, leaves copies on their way that nobody has waited for.
TEST(OffloadSchedules, AStepMayFollowOneWithoutAnUpdate) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  const auto train = [&](bool twice) {
    Trainer t = random_trainer(rig, offloaded_config(), mesh);
    t.optimizer.offload = make_offload(t.optimizer, t.memory, *rig.host_ops, kSizes);
    if (twice) (void)compute_gradients(t, random_sequences(16, 9, 37, 5).source());
    (void)train_step(t, kData.source());
    return state_of(t);
  };
  const TrainedState want = train(false);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const Deferred deferred(seed);
    EXPECT_TRUE(same(train(true), want)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace upcycle
