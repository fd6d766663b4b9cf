#include "launch/study/collect.h"

#include <filesystem>
#include <map>

#include "core/error.h"
#include "data/files.h"
#include "data/hash.h"
#include "launch/run_curves.h"
#include "launch/study/file_marks.h"
#include "launch/study/process.h"
#include "launch/study/run_folder.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t kMostText = std::size_t{1} << 30;
constexpr std::int64_t kLastSteps = 50;  // as the paper has it

// Known again by its contents: a text made anew under its old name is measured anew.
std::string set_id(const std::string& prefix) {
  FileMarks marks;
  const std::string text = marks.of_file(prefix + ".bin") + marks.of_file(prefix + ".idx");
  return hash_bytes(text.data(), text.size()).substr(0, 8);
}

// "measured/eval_old_9e8d7c6b_1a2b3c4d.json": of the set's contents and of what is asked.
MeasureCommand kept_as(const std::string& folder, const std::string& name, std::vector<std::string> asked,
                       const std::vector<std::string>& model) {
  const std::string text = command_line(asked);
  const std::string file =
      fmt::format("{}/measured/{}_{}.json", folder, name, hash_bytes(text.data(), text.size()).substr(0, 8));
  asked.insert(asked.begin() + 1, model.begin(), model.end());
  asked.emplace_back("--json");
  return {asked, file};
}

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

MeasureCommand inspect_command(const std::string& folder) {
  MeasureCommand c = kept_as(folder, "inspect", {"inspect"}, {folder});
  c.over_ranks = false;
  return c;
}

MeasureCommand eval_command(const Study& study, const StudyRun& run, const std::string& folder,
                            const std::pair<std::string, std::string>& set) {
  std::vector<std::string> asked = {"eval", "--data=" + set.second, "--documents",
                                    fmt::format("--longest-document={}", kLongestDocument),
                                    fmt::format("--seq-length={}", run.config.train.seq_length)};
  if (!study.tokenizer.empty()) asked.push_back("--tokenizer=" + study.tokenizer);
  return kept_as(folder, fmt::format("eval_{}_{}", set.first, set_id(set.second)),
                 with(asked, inference_arguments(run.config)), {folder});
}

MeasureCommand cloze_command(const Study& study, const StudyRun& run, const std::string& folder,
                             const std::pair<std::string, std::string>& set) {
  const Study::Cloze& c = study.cloze;
  const std::vector<std::string> asked = {"cloze",
                                          "--data=" + set.second,
                                          fmt::format("--longest-document={}", kLongestDocument),
                                          fmt::format("--items={}", c.items),
                                          fmt::format("--candidates={}", c.candidates),
                                          fmt::format("--context={}", c.context),
                                          fmt::format("--length={}", c.length)};
  return kept_as(folder, fmt::format("cloze_{}_{}", set.first, set_id(set.second)),
                 with(asked, inference_arguments(run.config)), {folder});
}

std::string data_of(const Study& study, const std::string& set) {
  for (const auto& [name, prefix] : study.valid)
    if (name == set) return prefix;
  input_error("{}: data.new: found {}, expected the name of a held-out set", study.file, set);
}

// Those of the held-out sets: they tell whether a run was measured as the study asks now.
std::vector<MeasureCommand> set_commands(const Study& study, const StudyRun& run, const std::string& folder) {
  std::vector<MeasureCommand> commands;
  for (const auto& set : study.valid) {
    commands.push_back(eval_command(study, run, folder, set));
    if (study.cloze.items > 0) commands.push_back(cloze_command(study, run, folder, set));
  }
  return commands;
}

// "measured/experts_9e8d7c6b_00000100_409600.json": by the text's contents, step and tokens trained. The checkpoints
// themselves may be gone later, so their names do not depend on what else the study asks for.
std::string experts_start(const Study& study) {
  return fmt::format("experts_{}_", set_id(data_of(study, study.new_set)));
}
std::vector<MeasureCommand> experts_commands(const Study& study, const StudyRun& run, const std::string& folder) {
  std::vector<MeasureCommand> commands;
  if (run.kind != "arm" || !run.config.model.is_moe()) return commands;
  const std::string start = experts_start(study);
  std::string before;
  for (const std::string& step : kept_steps(folder, run.config)) {
    const std::string path = folder + "/" + step;
    MeasureCommand c;
    c.arguments = {"experts", path, "--data=" + data_of(study, study.new_set), "--dtype=" + run.config.dtype,
                   "--device=" + run.config.device};
    if (!before.empty()) c.arguments.push_back("--since=" + before);
    c.arguments.emplace_back("--json");
    const CheckpointInfo info = look_at_step(path).manifest.info;
    c.file = fmt::format("{}/measured/{}{:08d}_{}.json", folder, start, info.step, info.tokens);
    c.over_ranks = false;
    commands.push_back(std::move(c));
    before = path;
  }
  return commands;
}

Json read_object(const std::string& path) {
  Json j = Json::parse(read_text(path, kMostText), nullptr, false);
  if (!j.is_object()) input_error("{}: found no JSON object, expected one; remove the file to measure it again", path);
  return j;
}

template <class T>
T value_of(const Json& j, const char* key, const std::string& path) {
  try {
    return j.at(key).get<T>();
  } catch (const Json::exception& e) {
    input_error("{}: {}: {}; remove the file to measure it again", path, key, e.what());
  }
}

void read_documents(SetMeasures& set, const std::string& path) {
  const Json j = read_object(path);
  for (const Json& d : value_of<Json>(j, "documents", path)) {
    if (!d.is_array() || d.size() != 3)
      input_error("{}: documents: found {}, expected [loss, tokens, bytes]; remove the file to measure it again", path,
                  d.dump());
    set.documents.push_back(
        {d[0].get<double>(), d[1].get<std::int64_t>(), d[2].is_null() ? 0 : d[2].get<std::int64_t>()});
  }
}

void read_cloze(SetMeasures& set, const std::string& path) {
  const Json j = read_object(path);
  set.candidates = value_of<std::int64_t>(j, "candidates", path);
  set.cloze = value_of<std::vector<double>>(j, "correct", path);
  set.cloze_documents = value_of<std::vector<std::int64_t>>(j, "documents", path);
  if (set.cloze_documents.size() != set.cloze.size())
    input_error("{}: documents: found {}, expected as many as items, {}; remove the file to measure it again", path,
                set.cloze_documents.size(), set.cloze.size());
}

// What `experts` said of each kept checkpoint, oldest first, with its "step" and "trained_tokens"; null: nothing.
Json read_experts(const Study& study, const std::string& folder) {
  const std::string start = experts_start(study);
  std::map<std::int64_t, Json> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder + "/measured")) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(start) || !name.ends_with(".json")) continue;
    const std::size_t between = name.find('_', start.size());
    if (between == name.npos) continue;
    const std::int64_t step = std::stoll(name.substr(start.size()));
    Json j{{"step", step}, {"trained_tokens", std::stoll(name.substr(between + 1))}};
    j.update(read_object(entry.path()));
    found[step] = std::move(j);
  }
  if (found.empty()) return nullptr;
  Json all = Json::array();
  for (auto& [step, j] : found) all.push_back(std::move(j));
  return all;
}

// What the study asks for now.
void read_sets(RunMeasures& m, const Study& study, const StudyRun& run, const std::string& folder) {
  m.sets.clear();
  for (const auto& named : study.valid) {
    SetMeasures set;
    set.name = named.first;
    read_documents(set, eval_command(study, run, folder, named).file);
    if (study.cloze.items > 0) read_cloze(set, cloze_command(study, run, folder, named).file);
    m.sets.push_back(std::move(set));
  }
  m.experts = read_experts(study, folder);
}

}  // namespace

std::vector<std::string> inference_arguments(const Config& c) {
  return {"--dtype=" + c.dtype, "--device=" + c.device, fmt::format("--parallel.tp={}", c.parallel.tp),
          fmt::format("--parallel.ep={}", c.parallel.ep), fmt::format("--parallel.etp={}", c.parallel.etp)};
}

std::vector<MeasureCommand> measure_commands(const Study& study, const StudyRun& run, const std::string& folder) {
  std::vector<MeasureCommand> commands = {inspect_command(folder)};
  for (MeasureCommand& c : set_commands(study, run, folder)) commands.push_back(std::move(c));
  for (MeasureCommand& c : experts_commands(study, run, folder)) commands.push_back(std::move(c));
  return commands;
}

RunMeasures collect_measures(const Study& study, const StudyRun& run, const std::string& folder) {
  RunMeasures m;
  const std::string inspected = inspect_command(folder).file;
  const Json model = read_object(inspected);
  m.steps = value_of<std::int64_t>(model, "step", inspected);
  m.tokens = value_of<std::int64_t>(model, "tokens", inspected);
  m.parameters = value_of<std::int64_t>(model, "parameters", inspected);
  m.active_parameters = value_of<std::int64_t>(model, "active_parameters", inspected);
  m.flops = value_of<double>(model, "flops", inspected);
  m.wall_seconds = value_of<double>(model, "wall_seconds", inspected);
  const RunEnd end = read_run_end(folder, kLastSteps);
  m.last_50_loss = end.loss;
  m.tokens_per_s = end.tokens_per_s;
  read_sets(m, study, run, folder);
  return m;
}

std::optional<RunMeasures> read_measures(const Study& study, const StudyRun& run, const std::string& folder) {
  const std::string path = folder + "/measures.json";
  if (!fs::exists(path)) return std::nullopt;
  for (const MeasureCommand& c : set_commands(study, run, folder))
    if (!fs::exists(c.file)) return std::nullopt;
  const Json j = Json::parse(read_text(path, kMostText), nullptr, false);
  RunMeasures m = measures_from_json(j, path);
  read_sets(m, study, run, folder);  // measures.json may have been made from the files of other settings
  if (m.experts.is_null() && !experts_commands(study, run, folder).empty()) return std::nullopt;
  return m;
}

}  // namespace upcycle
