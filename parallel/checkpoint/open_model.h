#pragma once
#include <memory>
#include <string>

#include "parallel/model/tensor_source.h"

namespace upcycle {

class Communicator;

// DIR is a run folder (its newest step is used), one step's folder, or a Hugging Face directory (config.json and
// safetensors). Validates everything that reading will rely on; hashes our files once (see open_checkpoint, also for
// `world`: with it, a collective call whose InputErrors are agreed).
std::unique_ptr<TensorSource> open_model(const std::string& dir, Communicator* world = nullptr);

}  // namespace upcycle
