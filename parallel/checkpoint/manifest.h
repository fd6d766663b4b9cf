#pragma once
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

// 2: the manifest has a hash of its own, and so has `latest`. 1 is still read.
inline constexpr int checkpoint_format_version = 2;
// Of a rank's HDF5 file: it is what it was in version 1.
inline constexpr int rank_file_version = 1;

// What manifest.json of a step folder says: everything but the numbers themselves.
struct Manifest {
  CheckpointInfo info;
  std::vector<Checkpoint::FileEntry> files;  // all but manifest.json
  std::vector<Checkpoint::TensorShape> tensors;
  int format_version = checkpoint_format_version;  // of the file that was read
};

inline constexpr const char* manifest_name = "manifest.json";
inline constexpr const char* latest_name = "latest";
inline constexpr const char* publishing_name = "publishing";  // see publish.h

std::string step_folder_name(std::int64_t step);  // "step_00000100"
bool is_step_folder_name(const std::string& name);
std::string model_folder_name(std::int64_t step);  // "model_00000100": weights alone
bool is_model_folder_name(const std::string& name);
// "model.rank00003.h5", "optimizer.rank00003.h5"
std::string model_file_name(int rank);
std::string optimizer_file_name(int rank);
// The rank of such a name, -1 where it is neither.
int rank_of_model_file(const std::string& name);
int rank_of_optimizer_file(const std::string& name);

// JSON, indented. Its manifest_hash is the XXH3-128 of the whole text with zeros in place of these 32 digits.
std::string manifest_text(const Manifest& manifest);

// Reads STEP_FOLDER/manifest.json, at most 64 MiB of it. InputError: missing, other bytes than were hashed, not JSON, a
// newer format version, a missing or mistyped key, a tensor list that is not the model's, a file name that leads out of
// the folder.
Manifest read_manifest(const std::string& step_folder);
// The two halves of it. `path` is for messages.
std::string read_manifest_text(const std::string& step_folder);
Manifest parse_manifest(const std::string& text, const std::string& path);

// What is wrong with the bytes of a manifest's text; "": they are as they were written. A text of version 1 has no
// hash: there only what does not parse is found.
std::string damage_of_manifest(const std::string& text, const std::string& path);

}  // namespace upcycle
