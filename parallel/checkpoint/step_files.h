#pragma once
#include <string>

#include "parallel/checkpoint/manifest.h"

namespace upcycle {

// The step folder that DIR refers to: DIR itself if it has a manifest, else the one that DIR/latest names. InputError
// where there is none.
std::string find_step_folder(const std::string& dir);

// For messages about a folder without `latest`: that no step was published, or which weights alone are there.
std::string hint_of_models(const std::string& dir);

// What is wrong with `file`, "": nothing. It is missing (naming a file that may be it, renamed) or of another size;
// with `verify` also, its hash differs: damaged, of another checkpoint, or swapped with another of its files. A file
// that can not be read is an InputError or Error.
std::string damage_of_file(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& file,
                           bool verify);
// The same as an InputError.
void check_file(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& file, bool verify);

// Which of `size` ranks hashes a file of the manifest: where as many ranks saved it, the rank that will read it, from
// its host's cache.
int rank_that_hashes(const Manifest& manifest, int file, int size);

// A checkpoint's manifest, with its files checked for presence and size but neither opened nor hashed.
struct StepFolder {
  std::string path;
  Manifest manifest;
};
StepFolder look_at_step(const std::string& dir);

}  // namespace upcycle
