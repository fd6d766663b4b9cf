#include "launch/study/run_folder.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "data/files.h"
#include "launch/study/run_start.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/publish.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t kMostText = std::size_t{1} << 24;

Json parsed_config(const std::string& text, const std::string& where) {
  Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) input_error("{}: found no JSON object, expected the config of a run; move the file away", where);
  return j;
}

// A study's folder may be moved, or named otherwise: another run of it from which a run starts is the same by its name.
void take_over_start(const Json& before, Json& now) {
  const fs::path runs = parent_folder(now.value("/checkpoint/dir"_json_pointer, ""));
  for (const auto& key : {"/init/load"_json_pointer, "/init/upcycle"_json_pointer}) {
    const fs::path old = before.value(key, ""), path = now.value(key, "");
    if (path.parent_path() == runs && path.filename() == old.filename() && old.parent_path().filename() == "runs")
      now[key] = old.string();
  }
}

// Without what is no part of what a run is: where it stands, and the held-out text, which training only looks at.
Json flat_config(Json j) {
  if (j.contains("checkpoint")) j["checkpoint"].erase("dir");
  if (j.contains("data")) j["data"].erase("valid");
  return j.flatten();
}

std::string dotted(std::string pointer) {
  std::replace(pointer.begin(), pointer.end(), '/', '.');
  return pointer.substr(std::min<std::size_t>(1, pointer.size()));
}

std::string value_text(const Json& j, const std::string& key) { return j.contains(key) ? j[key].dump() : "nothing"; }

// Hard links where there are any: a published checkpoint is never modified.
void link_or_copy(const fs::path& from, const std::string& folder) {
  std::error_code code;
  fs::create_hard_link(from, fs::path(folder) / from.filename(), code);
  if (code) copy_file(from.string(), folder);
}

// `latest` is written last: without it nothing of the copy counts, and it is made anew.
void copy_start(const std::string& from, const std::string& to) {
  if (!read_latest(to).empty()) return;
  const std::string step = read_latest(from);
  if (step.empty()) input_error("{}: found no checkpoint, expected the one from which {} goes on", from, to);
  const std::string aside = to + "/" + step + ".tmp", folder = to + "/" + step;
  remove_tree(aside);
  remove_tree(folder);
  make_folder(aside);
  for (const fs::directory_entry& file : fs::directory_iterator(from + "/" + step)) link_or_copy(file.path(), aside);
  fsync_directory(aside);
  rename_durable(aside, folder);
  if (fs::exists(from + "/metrics.jsonl")) copy_file(from + "/metrics.jsonl", to);
  write_latest(to, step);
}

// The run's config, but for the path of its start where the study was moved: the trainer compares it with what the
// checkpoint says.
std::string config_to_train(const Study& study, const StudyRun& run) {
  std::string from = run_folder(study, run.name);
  if (read_latest(from).empty()) {
    if (run.continues.empty()) return run.config_text;
    from = run_folder(study, run.continues);
  }
  const std::string path = from + "/config.json";
  if (!fs::exists(path)) return run.config_text;
  Json config = Json::parse(run.config_text);
  take_over_start(parsed_config(read_text(path, kMostText), path), config);
  return config.dump(2);
}

}  // namespace

std::string run_folder(const Study& study, const std::string& name) { return study.output + "/runs/" + name; }
std::string lock_folder(const Study& study, const std::string& name) { return study.output + "/locks/" + name; }

std::optional<ConfigDifference> config_difference(const std::string& before_text, const std::string& before_where,
                                                  const std::string& now_text, const std::string& now_where) {
  const Json first = parsed_config(before_text, before_where);
  Json second = parsed_config(now_text, now_where);
  take_over_start(first, second);
  const Json before = flat_config(first), now = flat_config(second);
  Json all = before;
  all.update(now);
  for (const auto& [key, value] : all.items())
    if (value_text(before, key) != value_text(now, key))
      return ConfigDifference{dotted(key), value_text(before, key), value_text(now, key)};
  return std::nullopt;
}

void check_same_config(const Study& study, const StudyRun& run) {
  const std::string path = run_folder(study, run.name) + "/config.json";
  if (!fs::exists(path)) return;
  if (const auto d = config_difference(read_text(path, kMostText), path, run.config_text, "the config of " + run.name))
    input_error(
        "{}: {}: found {}, expected {} as the run {} has it in {}; choose another output, or remove the run's folder, "
        "and those of runs that start from it, to train it anew",
        study.file, d->key, d->found, d->expected, run.name, path);
}

void prepare_run(const Study& study, const StudyRun& run) {
  const std::string folder = run_folder(study, run.name);
  make_folder(folder + "/measured");
  note_start(study, run);
  const std::string config = folder + "/config.json", text = config_to_train(study, run);
  if (!fs::exists(config) || read_text(config, kMostText) != text) write_text_atomic(config, text);
  fs::remove(folder + "/failed.json");
  if (!run.continues.empty()) copy_start(run_folder(study, run.continues), folder);
}

bool is_free(const std::string& folder) {
  return !fs::is_directory(folder) || FolderLock::try_lock(folder).has_value();
}

std::vector<std::string> kept_steps(const std::string& folder, const Config& config) {
  const std::string latest = read_latest(folder);
  std::vector<std::string> kept;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!is_step_folder_name(name)) continue;
    const std::int64_t step = std::stoll(name.substr(name.find('_') + 1)), every = config.checkpoint.every;
    if (name == latest || (every > 0 && step % every == 0)) kept.push_back(name);
  }
  std::sort(kept.begin(), kept.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
  return kept;
}

std::optional<Failure> read_failure(const std::string& folder) {
  const std::string path = folder + "/failed.json";
  if (!fs::exists(path)) return std::nullopt;
  const Json j = Json::parse(std::ifstream(path), nullptr, false);
  if (!j.is_object() || !j.contains("error") || !j.contains("at")) return Failure{"failed.json can not be read", 0};
  return Failure{j["error"].get<std::string>(), j["at"].get<double>()};
}

void write_failure(const std::string& folder, const std::string& error) {
  write_text_atomic(folder + "/failed.json", Json{{"error", error}, {"at", seconds_since_1970()}}.dump() + "\n");
}

std::string last_error(const std::string& log, std::uint64_t begin, int code) {
  static const std::string start = "upcycle: ";
  std::string ours, last;
  std::ifstream in(log);
  in.seekg(static_cast<std::streamoff>(begin));
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(start)) ours = line.substr(start.size());
    if (line.find_first_not_of(" \t-") != line.npos) last = line;
  }
  if (!ours.empty()) return ours;
  return (code > 128 ? fmt::format("ended by signal {} ({})", code - 128, ::strsignal(code - 128))
                     : fmt::format("ended with exit code {}", code)) +
         (last.empty() ? "" : fmt::format("; it last said: {}", last));
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace upcycle
