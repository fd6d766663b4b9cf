#include "parallel/checkpoint/publish.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/plain_text.h"
#include "data/files.h"
#include "parallel/checkpoint/read_lock.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr const char* old_ending = ".old";

// "" where it is damaged: then nothing is known of what was being published.
std::string read_mark(const std::string& run_dir) { return look_at_named_step(run_dir + "/" + publishing_name).step; }

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code))
    names.push_back(entry.path().filename());
  if (code) input_error("{}: cannot list the folder: {}", folder, code.message());
  return names;
}

// Renamed first: a removal that stops half-way must not leave a step folder that lacks files. `ending`: "" or ".old".
void remove_step(const std::string& run_dir, const std::string& name, const char* ending = "") {
  const std::string aside = run_dir + "/" + name + ".tmp";
  remove_tree(aside);
  rename_durable(run_dir + "/" + name + ending, aside);
  remove_tree(aside);
}

// By number: past 99999999 names get longer.
bool is_older(const std::string& a, const std::string& b) { return a.size() != b.size() ? a.size() < b.size() : a < b; }

std::int64_t number_of(const std::string& step) {
  std::int64_t number = 0;  // of at most 19 digits
  for (const char c : step.substr(step.find('_') + 1)) number = number * 10 + (c - '0');
  return number;
}

// The folder's steps whose names have this ending, oldest first; without the ending.
std::vector<std::string> steps_in(const std::string& run_dir, std::string_view ending = "",
                                  bool (*is_name)(const std::string&) = is_step_folder_name) {
  std::vector<std::string> steps;
  for (const std::string& name : names_in(run_dir))
    if (name.ends_with(ending) && is_name(name.substr(0, name.size() - ending.size())))
      steps.push_back(name.substr(0, name.size() - ending.size()));
  std::sort(steps.begin(), steps.end(), is_older);
  return steps;
}

// Weights alone that were set aside: their successor is there, or they are put back.
void settle_old_models(const std::string& run_dir) {
  for (const std::string& name : steps_in(run_dir, old_ending, is_model_folder_name)) {
    const std::string folder = run_dir + "/" + name;
    if (fs::exists(folder))
      remove_tree(folder + old_ending);
    else
      rename_durable(folder + old_ending, folder);
  }
}

void set_aside(const std::string& run_dir, const std::string& step) {
  rename_durable(run_dir + "/" + step, run_dir + "/" + step + old_ending);
}

// Steps set aside are removed if the step that replaced them was published, otherwise put back: only the mark tells,
// because `latest` may have been set by hand since.
void settle_old_steps(const std::string& run_dir) {
  const std::string latest = look_at_latest(run_dir).step, marked = read_mark(run_dir);
  const bool replaced = !latest.empty() && marked == latest && fs::exists(run_dir + "/" + latest);
  for (const std::string& step : steps_in(run_dir, old_ending)) {
    if (replaced)
      remove_step(run_dir, step, old_ending);
    else
      rename_durable(run_dir + "/" + step + old_ending, run_dir + "/" + step);
  }
}

// Ranks write to one file system, or the manifest would name files that no one else finds.
void check_visible(const std::string& folder, const Manifest& manifest) {
  for (const Checkpoint::FileEntry& f : manifest.files) {
    std::error_code code;
    const std::uintmax_t bytes = fs::file_size(folder + "/" + f.name, code);
    if (code || bytes != static_cast<std::uintmax_t>(f.bytes))
      input_error(
          "{}/{}: rank 0 does not see the {} bytes that its rank wrote; checkpoint.dir must be on a file system "
          "that all hosts share",
          folder, f.name, f.bytes);
  }
}

}  // namespace

std::vector<std::string> published_steps(const std::string& run_dir) { return steps_in(run_dir); }
std::vector<std::string> published_models(const std::string& run_dir) {
  return steps_in(run_dir, "", is_model_folder_name);
}

std::string set_damaged_aside(const std::string& run_dir, const std::string& step) {
  std::string name = step + ".damaged";
  for (int i = 2; fs::exists(run_dir + "/" + name); ++i) name = fmt::format("{}.damaged{}", step, i);
  rename_durable(run_dir + "/" + step, run_dir + "/" + name);
  return name;
}

std::vector<std::string> newer_steps(const std::string& run_dir) {
  const std::string latest = read_latest(run_dir);
  if (latest.empty()) return {};
  std::vector<std::string> steps = steps_in(run_dir);
  std::erase_if(steps, [&](const std::string& step) { return !is_older(latest, step); });
  return steps;
}

void check_publishable(const std::string& run_dir, std::int64_t step) {
  const std::string name = step_folder_name(step), latest = read_latest(run_dir);
  if (fs::exists(run_dir + "/" + name) && (latest.empty() || !is_older(latest, name)))
    input_error(
        "{}/{}: is there already, and a published step is never changed; resume from it (write {} to {}/{}) or move it "
        "away",
        run_dir, name, name, run_dir, latest_name);
}

void clean_run_folder(const std::string& run_dir, const std::vector<std::string>& except) {
  for (const auto is_name : {is_step_folder_name, is_model_folder_name})
    for (const std::string& step : steps_in(run_dir, ".tmp", is_name))
      if (std::find(except.begin(), except.end(), step + ".tmp") == except.end())
        remove_tree(run_dir + "/" + step + ".tmp");
  // Of write_text_atomic.
  for (const std::string& name : names_in(run_dir))
    if (name == std::string(latest_name) + ".tmp" || name == std::string(publishing_name) + ".tmp" ||
        name.ends_with(".json.tmp"))
      remove_tree(run_dir + "/" + name);
  settle_old_models(run_dir);
  const std::string mark = run_dir + "/" + publishing_name;
  const std::string unfinished = read_mark(run_dir);
  const Latest latest = look_at_latest(run_dir);
  // The mark is written after an older step of that name has been set aside: the folder of that name is the new one.
  if (!unfinished.empty() && latest.damage.empty() && unfinished != latest.step &&
      fs::exists(run_dir + "/" + unfinished))
    remove_step(run_dir, unfinished);
  settle_old_steps(run_dir);
  remove_tree(mark);
}

namespace {
bool is_published(const std::string& run_dir, const std::string& step) {
  try {
    return look_at_latest(run_dir).step == step && fs::exists(run_dir + "/" + step);
  } catch (const std::exception&) {
    return false;
  }
}

// The step is published: what can not be removed is removed at the next start.
void drop_replaced(const std::string& run_dir) {
  try {
    settle_old_steps(run_dir);
    remove_tree(run_dir + "/" + publishing_name);
  } catch (const std::exception& e) {
    log_warn("{}; the new checkpoint is saved, what it replaced stays until the next start", plain_text(e.what()));
  }
}
}  // namespace

namespace {
// Of a publishing that failed, which is what the caller is to hear of.
template <class F>
void undo(const F& f) {
  try {
    f();
  } catch (const std::exception& e) {
    log_warn("{}; this is left until the next save, or start", plain_text(e.what()));
  }
}
}  // namespace

void publish_step(const std::string& run_dir, const Manifest& manifest) {
  const std::string name = step_folder_name(manifest.info.step);
  const std::string folder = run_dir + "/" + name, aside = folder + ".tmp", mark = run_dir + "/" + publishing_name;
  bool renamed = false, named = false;
  try {
    check_publishable(run_dir, manifest.info.step);
    check_visible(aside, manifest);
    write_text_atomic(aside + "/" + manifest_name, manifest_text(manifest));
    fsync_directory(aside);
    for (const std::string& step : newer_steps(run_dir))
      if (!is_older(name, step)) set_aside(run_dir, step);
    write_text_atomic(mark, named_step_text(name));
    renamed = true;  // also where only the fsync after it fails
    rename_durable(aside, folder);
    try {
      write_latest(run_dir, name);
    } catch (const RenamedNotSynced&) {  // a disk that fails from now on could not be asked what latest names
      named = true;
      throw;
    }
    drop_replaced(run_dir);
  } catch (const std::exception& e) {
    if (named || is_published(run_dir, name)) throw NotSynced(e.what());
    undo([&] {
      if (renamed && fs::exists(folder)) remove_step(run_dir, name);
      remove_tree(aside);
      settle_old_steps(run_dir);
      remove_tree(mark);
    });
    throw;
  }
}

std::vector<std::string> newer_models(const std::string& run_dir) {
  const std::string latest = read_latest(run_dir);
  std::vector<std::string> models = steps_in(run_dir, "", is_model_folder_name);
  const auto step = [](const std::string& name) { return name.substr(name.find('_')); };
  if (!latest.empty())
    std::erase_if(models, [&](const std::string& model) { return !is_older(step(latest), step(model)); });
  return models;
}

void publish_model(const std::string& run_dir, const Manifest& manifest) {
  const std::string folder = run_dir + "/" + model_folder_name(manifest.info.step), aside = folder + ".tmp";
  bool renamed = false;
  try {
    check_visible(aside, manifest);
    write_text_atomic(aside + "/" + manifest_name, manifest_text(manifest));
    fsync_directory(aside);
    if (fs::exists(folder)) rename_durable(folder, folder + old_ending);
    renamed = true;  // also where only the fsync after it fails
    rename_durable(aside, folder);
  } catch (const std::exception& e) {
    if (renamed && !fs::exists(aside)) throw NotSynced(e.what());
    undo([&] {
      remove_tree(aside);
      settle_old_models(run_dir);
    });
    throw;
  }
  try {
    settle_old_models(run_dir);
  } catch (const std::exception& e) {
    log_warn("{}; the new weights are saved, what they replaced stays until the next start", plain_text(e.what()));
  }
}

void remove_old_steps(const std::string& run_dir, const Retention& keep) {
  if (keep.newest <= 0) return;
  const std::string latest = read_latest(run_dir);
  std::vector<std::string> steps = steps_in(run_dir);
  std::erase_if(steps, [&](const std::string& step) { return is_older(latest, step); });
  const auto n = static_cast<std::int64_t>(steps.size());
  if (n <= keep.newest) return;
  steps.resize(static_cast<std::size_t>(n - keep.newest));
  std::erase_if(steps, [&](const std::string& step) {
    return step == latest || (keep.every > 0 && number_of(step) % keep.every == 0);
  });
  if (steps.empty()) return;
  try {
    (void)look_at_step(run_dir + "/" + latest);
  } catch (const InputError& e) {
    log_warn("{}; older steps stay, for one of them may be the only one that is whole", e.what());
    return;
  }
  for (const std::string& step : steps) {
    const auto lock = RemovalLock::try_lock(run_dir + "/" + step);
    if (lock)
      remove_step(run_dir, step);
    else
      log_warn("{}/{}: another process reads it: it stays until the next save", run_dir, step);
  }
}

}  // namespace upcycle
