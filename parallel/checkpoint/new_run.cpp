#include "parallel/checkpoint/new_run.h"

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "data/files.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/rank_files.h"

namespace upcycle {
namespace fs = std::filesystem;

void require_free(const std::string& out) {
  if (!fs::exists(out)) return;
  if (!fs::is_directory(out)) input_error("{}: found a file, expected a folder to be made; choose another name", out);
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    const bool remains = name.ends_with(".tmp") && is_step_folder_name(name.substr(0, name.size() - 4));
    if (name == ".lock" || remains) continue;
    input_error("{}: found {} in it, expected an empty folder or none; choose another name", out, name);
  }
}

void make_run(const std::string& out, std::int64_t step,
              const std::function<Manifest(const std::string& folder)>& write) {
  require_free(out);
  const bool made = !fs::exists(out);
  make_folder(out);
  const FolderLock lock(out);
  require_free(out);  // another process may have been faster
  clean_run_folder(out);
  const std::string aside = out + "/" + step_folder_name(step) + ".tmp";
  try {
    make_folder(aside);
    publish_step(out, write(aside));
  } catch (...) {
    try {
      remove_tree(made ? out : aside);
    } catch (const std::exception& e) {
      log_warn("{}", e.what());
    }
    throw;
  }
}

}  // namespace upcycle
