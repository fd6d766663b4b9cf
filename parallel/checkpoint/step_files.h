#pragma once
#include <string>

#include "parallel/checkpoint/manifest.h"

namespace upcycle {

// The step folder that DIR stands for: DIR itself where it has a manifest, else the one that DIR/latest names.
// InputError where there is none.
std::string find_step_folder(const std::string& dir);

// InputError where `file` is missing (naming one that may be it under another name) or of another size; with `verify`
// also where its hash differs: damaged, of another checkpoint, or swapped with another of its files.
void check_file(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& file, bool verify);

// What a checkpoint says of itself, its files there and of the right size. None of them is opened or hashed.
struct StepFolder {
  std::string path;
  Manifest manifest;
};
StepFolder look_at_step(const std::string& dir);

}  // namespace upcycle
