#include <algorithm>

#include "parallel/train/snapshot.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/resident_bytes.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

Config offloaded_config() {
  Config c = small_moe_config();
  c.dtype = "bf16";
  c.device = "cuda";
  c.train.optimizer_offload = true;
  return c;
}

// Beside what a plan counts, a run takes no more than a twentieth: of the GPU's memory, of pinned host memory, and of
// the process's (in which the emulated GPU's memory lies too).
TEST(OffloadedMemory, OfBothSidesIsWithinATwentiethOfThePlan) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  const auto step = [&](Trainer& t) {
    (void)train_step(t, random_sequences(16, 9, t.config.model.vocab_size, 3).source());
  };
  const auto within = [](double found, double planned) {
    EXPECT_GT(found, 0.95 * planned);
    EXPECT_LT(found, 1.05 * planned);
  };
  std::vector<Trainer> kept;  // memory that was freed would be taken again
  for (const char* form : {"fp32", "bf16"}) {
    Config config = offloaded_config();
    kept.push_back(random_trainer(rig, config, mesh));
    step(kept.back());  // what a process takes once
    config.train.gradient_dtype = config.train.moment_dtype = form;
    config.train.micro_batch_size = 2;
    config.checkpoint.dir = "somewhere";
    config.checkpoint.snapshot = "bucket";
    config.model.hidden_size = 128;
    config.model.intermediate_size = 384;
    config.model.vocab_size = 4099;
    double on_gpu = 0, on_host = 0;
    for (const MemoryClass& c : plan_trainer(config, mesh, *rig.ops))
      if (c.name.find("estimate") == std::string::npos)  // of what the emulated GPU's libraries do not take
        (c.beside_gpu ? on_host : on_gpu) += static_cast<double>(c.bytes);
    EXPECT_GT(std::min(on_gpu, on_host), 10e6);

    const std::size_t device = emul::live_bytes(), pinned = emul::live_pinned_bytes(),
                      resident = test::resident_bytes();
    kept.push_back(random_trainer(rig, config, mesh));
    const Snapshot snapshot = make_snapshot(kept.back());
    step(kept.back());
    within(static_cast<double>(emul::live_bytes() - device), on_gpu);
    within(static_cast<double>(emul::live_pinned_bytes() - pinned), on_host);
#ifndef __SANITIZE_ADDRESS__  // which holds freed memory back
    within(static_cast<double>(test::resident_bytes() - resident), on_gpu + on_host);
#endif
  }
}

}  // namespace
}  // namespace upcycle
