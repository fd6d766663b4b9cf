#include "launch/study/run_start.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "data/files.h"
#include "launch/study/run_folder.h"
#include "launch/study/this_machine.h"
#include "launch/study/wording.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t kMostText = std::size_t{1} << 26;

std::string file_of(const Study& study, const std::string& name) { return run_folder(study, name) + "/started.json"; }

Json read_start(const std::string& path) {
  Json j = Json::parse(read_text(path, kMostText), nullptr, false);
  if (!j.is_object() || !j.contains("files") || !j["files"].is_object() || !j.contains("runs") ||
      !j["runs"].is_object())
    input_error("{}: found something else than an object with files and runs; remove the run's folder to train it anew",
                path);
  return j;
}

// The model from outside the study that a run starts from; "" = none.
std::string outside_model(const Study& study, const StudyRun& run) {
  const std::string init = run.config.init.load + run.config.init.upcycle;  // at most one of the two
  return !init.empty() && parent_folder(init) == parent_folder(run_folder(study, run.name)) ? "" : init;
}

Json trained_here(const Study& study) {
  return {{"machine", this_machine()}, {"ranks", study.launch.ranks}, {"at_once", study.launch.at_once}};
}

std::string shown(const std::string& mark) { return mark.empty() ? "nothing" : mark; }

}  // namespace

void note_start(const Study& study, const StudyRun& run) {
  const std::string path = file_of(study, run.name);
  if (fs::exists(path)) return;
  FileMarks marks;
  Json files = Json::object(), runs = Json::object();
  if (const std::string model = outside_model(study, run); !model.empty()) files[model] = marks.of_model(model);
  for (const WeightedPath& p : run.config.data.train)
    for (const char* end : {".bin", ".idx"}) files[p.path + end] = marks.of_file(p.path + end);
  if (const std::string& file = run.config.data.tokenizer; !file.empty()) files[file] = marks.of_file(file);
  for (const std::string& name : run.needs) {
    runs[name] = Json::parse(read_text(run_folder(study, name) + "/config.json", kMostText));
    if (!fs::exists(file_of(study, name))) continue;
    const Json start = read_start(file_of(study, name));
    files.update(start["files"]);
    runs.update(start["runs"]);
  }
  write_text_atomic(path, Json{{"files", files}, {"runs", runs}, {"trained_on", trained_here(study)}}.dump(1) + "\n");
}

std::optional<std::string> note_of_machines(const Study& study, const std::vector<StudyResult>& results,
                                            const std::vector<ServingResult>& serving) {
  std::map<std::string, std::size_t> trained;
  std::set<std::string> machines;
  for (const StudyResult& r : results)
    if (const std::string path = file_of(study, r.run.name); r.status == "done" && fs::exists(path)) {
      const Json on = read_start(path).value("trained_on", Json());
      if (!on.is_object()) continue;
      machines.insert(on.value("machine", ""));
      ++trained[fmt::format("{} with {} and {} at a time", on.value("machine", ""),
                            counted(on.value("ranks", std::size_t{0}), "rank"),
                            counted(on.value("at_once", std::size_t{0}), "run"))];
    }
  std::string all;
  for (const auto& [where, runs] : trained)
    all += fmt::format("{}{} on {}", all.empty() ? "" : "; ", counted(runs, "run"), where);
  for (const ServingResult& s : serving)
    if (s.source == "measured" && !trained.empty() && machines.insert(s.machine).second)
      all += fmt::format("; serving was measured on {}", s.machine);
  if (trained.size() < 2 && machines.size() < 2) return std::nullopt;
  return fmt::format(
      "Runs were not all trained and served in the same way: {}. Seconds, costs and break-even are not to be compared "
      "across these; training is counted with the {} and {} at a time of the last start.",
      all, counted(static_cast<std::size_t>(study.launch.ranks), "rank"),
      counted(static_cast<std::size_t>(study.launch.at_once), "run"));
}

void check_same_start(const Study& study, const StudyRun& run, const std::vector<StudyRun>& runs, FileMarks& marks) {
  const std::string path = file_of(study, run.name);
  if (!fs::exists(path)) return;
  const Json start = read_start(path);
  for (const auto& [file, mark] : start["files"].items()) {
    const std::string& now = fs::is_directory(file) ? marks.of_model(file) : marks.of_file(file);
    if (Json(now) != mark)
      input_error(
          "{}: found {}, expected {} as when the run {} was started ({}); put it back, choose another output, or "
          "remove the folders of all runs that were trained with it",
          file, shown(now), mark.is_string() ? shown(mark.get<std::string>()) : mark.dump(), run.name, path);
  }
  for (const auto& [name, config] : start["runs"].items()) {
    const auto other = std::ranges::find(runs, name, &StudyRun::name);
    if (other == runs.end()) continue;
    if (const auto d =
            config_difference(config.dump(), path + ": " + name, other->config_text, "the config of " + name))
      input_error(
          "{}: {} of {}: found {}, expected {} as when the run {} was started from it ({}); choose another output, or "
          "remove the folders of {} and of all runs that start from it",
          study.file, d->key, name, d->found, d->expected, run.name, path, name);
  }
}

}  // namespace upcycle
