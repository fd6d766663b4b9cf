#include "parallel/checkpoint/step_files.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "data/hash.h"
#include "parallel/checkpoint/publish.h"

namespace upcycle {
namespace fs = std::filesystem;

namespace {
// A file that the manifest does not list and that may be the renamed one: it has its size.
std::string renamed_from(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& missing) {
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const bool listed = std::any_of(manifest.files.begin(), manifest.files.end(),
                                    [&](const Checkpoint::FileEntry& f) { return f.name == name; });
    if (!listed && name != manifest_name && entry.is_regular_file(code) &&
        entry.file_size(code) == static_cast<std::uintmax_t>(missing.bytes))
      return name;
  }
  return "";
}

}  // namespace

std::string damage_of_file(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& file,
                           bool verify) {
  const std::string path = folder + "/" + file.name;
  if (!fs::exists(path)) {
    const std::string other = renamed_from(folder, manifest, file);
    return fmt::format(
        "{}: found no such file, expected the {} bytes that {} lists; {}", path, file.bytes, manifest_name,
        other.empty() ? "copy it back, or use another step's folder"
                      : fmt::format("{} has that size and is not listed: rename it back", quote_text(other)));
  }
  const std::uint64_t bytes = open_regular_file(path).size();
  if (bytes != static_cast<std::uint64_t>(file.bytes)) {
    std::string cause =
        bytes < static_cast<std::uint64_t>(file.bytes) ? "the file is truncated" : "the file was changed";
    for (const Checkpoint::FileEntry& other : manifest.files)
      if (bytes == static_cast<std::uint64_t>(other.bytes))
        cause = fmt::format("{} has that size: the file was swapped with it, or changed", other.name);
    return fmt::format("{}: found {} bytes, expected {}; {}: copy it again, or use another step's folder", path, bytes,
                       file.bytes, cause);
  }
  if (!verify) return "";
  const std::string hash = hash_file(path);
  if (hash == file.hash) return "";
  for (const Checkpoint::FileEntry& other : manifest.files)
    if (other.hash == hash)
      return fmt::format(
          "{}: found the contents of {} (hash {}), expected its own ({}); the files were swapped: rename them back",
          path, other.name, hash, file.hash);
  return fmt::format(
      "{}: found hash {}, expected {}; the file is damaged or of another checkpoint: copy it again, or use another "
      "step's folder",
      path, hash, file.hash);
}

void check_file(const std::string& folder, const Manifest& manifest, const Checkpoint::FileEntry& file, bool verify) {
  if (const std::string damage = damage_of_file(folder, manifest, file, verify); !damage.empty())
    throw InputError(damage);
}

int rank_that_hashes(const Manifest& manifest, int file, int size) {
  const std::string& name = manifest.files[static_cast<std::size_t>(file)].name;
  const int rank = std::max(rank_of_model_file(name), rank_of_optimizer_file(name));
  return (rank < 0 || size > manifest.info.layout.world ? file : rank) % size;
}

std::string hint_of_models(const std::string& dir) {
  const std::vector<std::string> models = newer_models(dir);
  return models.empty() ? "no step was published there"
                        : fmt::format("{} holds weights alone: to read them give its path", models.back());
}

std::string find_step_folder(const std::string& dir) {
  if (!fs::is_directory(dir))
    input_error("{}: found no such folder, expected a run folder or a step's; give its path", dir);
  if (fs::exists(dir + "/" + manifest_name)) return dir;
  const std::string latest = read_latest(dir);
  if (latest.empty())
    input_error("{}: found neither {} nor {}, expected a checkpoint; {}", dir, latest_name, manifest_name,
                published_steps(dir).empty()
                    ? hint_of_models(dir)
                    : "give the path of one of its steps (`upcycle train` goes on from the newest intact one)");
  const std::string folder = dir + "/" + latest;
  if (!fs::exists(folder + "/" + manifest_name))
    input_error("{}/{}: found {}, expected a step folder of that name with a {}; write another step's name there", dir,
                latest_name, latest, manifest_name);
  return folder;
}

StepFolder look_at_step(const std::string& dir) {
  StepFolder step;
  step.path = find_step_folder(dir);
  step.manifest = read_manifest(step.path);
  for (const Checkpoint::FileEntry& file : step.manifest.files) check_file(step.path, step.manifest, file, false);
  return step;
}

}  // namespace upcycle
