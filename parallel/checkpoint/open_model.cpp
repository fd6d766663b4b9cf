#include "parallel/checkpoint/open_model.h"

#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"
#include "parallel/comm/agree.h"
#include "parallel/models/huggingface.h"

namespace upcycle {

std::unique_ptr<TensorSource> open_model(const std::string& dir, Communicator* world) {
  // All ranks open what one rank finds: ranks that took different paths would wait for each other.
  const bool ours = world == nullptr ? is_checkpoint(dir) : world->max_of(is_checkpoint(dir)) > 0;
  if (ours) return open_checkpoint(dir, true, world, true);
  std::unique_ptr<TensorSource> source;
  const auto open = [&] {
    if (!std::filesystem::is_directory(dir))
      input_error("{}: found no such folder, expected a checkpoint or a Hugging Face model; give its path", dir);
    if (!is_huggingface(dir))
      input_error(
          "{}: found neither latest, manifest.json nor config.json, expected a checkpoint (a run folder or a "
          "step's) or a Hugging Face model; {}",
          dir, hint_of_models(dir));
    source = open_huggingface(dir);
  };
  if (world == nullptr)
    open();
  else
    agree_or_throw(*world, open);
  return source;
}

}  // namespace upcycle
