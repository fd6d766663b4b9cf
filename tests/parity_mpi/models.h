#pragma once
#include <string>

#include "parallel/upcycle/rules.h"
#include "tests/model_forms.h"
#include "tests/parity_mpi/parity.h"

namespace upcycle::test {

// How an MoE may be made. GatedExpert: a shared expert of another width than the dense MLP's with a gate, and a layer
// that is dense by name, as no upcycling makes it.
enum class Start { Dense, Copy, VirtualGroup, SharedExpert, GatedExpert };

// The switches of one parity run besides its layout.
struct Switches {
  Start start = Start::Copy;
  int microbatches = 1;  // per rank
  bool recompute = false;
  bool classes = false;     // recompute attention, mlp and norms (where not recompute)
  bool one_expert = false;  // k = 1 (of virtual groups: one), the softmax before the top-k; else 2 after it
  int every = 1;            // moe_every_n_layers
  int chunks = 1;
  bool tied = false;
  bool masked = false;  // targets of uneven documents, whole microbatches without one among them
  bool tight = false;   // imbalance_factor 1: rounds wherever routing is uneven at all
  int zero_stage = 1;
  const ModelForm* form = nullptr;  // null: Llama's
  std::string text() const;
};

// Small and ragged, of sizes that every tp and ep of this world divides: H 20, L 2, T 24 (20 on 5 ranks, 28 on 7), V 33
// (the last of 8 tp ranks has no word).
Config config_of(const Switches& s);

// The dense model it grows from, and how.
ModelConfig dense_model_of(const Switches& s);
UpcycleConfig upcycling_of(const Switches& s);

// The weights it starts from: real upcycling of a drawn dense model, noise making the experts differ. Beside a shared
// expert routed downs would be zero and hide most gradients: its weights are random.
Fill fill_of(const Switches& s);

// `data` with targets masked unevenly: of every third microbatch all, else of some documents.
void mask_targets(const Config& config, FixedSequences& data);

}  // namespace upcycle::test
