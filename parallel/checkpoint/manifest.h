#pragma once
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

// What manifest.json of a step folder says: everything but the numbers themselves.
struct Manifest {
  CheckpointInfo info;
  std::vector<Checkpoint::FileEntry> files;  // all but manifest.json
  std::vector<Checkpoint::TensorShape> tensors;
};

inline constexpr int checkpoint_format_version = 1;
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

std::string manifest_text(const Manifest& manifest);  // JSON, indented

// Reads STEP_FOLDER/manifest.json, at most 64 MiB of it. InputError: missing, not JSON, a newer format version, a
// missing or mistyped key, a tensor list that is not the model's, a file name that leads out of the folder.
Manifest read_manifest(const std::string& step_folder);

}  // namespace upcycle
