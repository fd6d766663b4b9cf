#include "launch/study/serving_costs.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "data/files.h"
#include "launch/study/collect.h"
#include "launch/study/run_folder.h"
#include "launch/study/this_machine.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {

constexpr std::size_t kMostText = std::size_t{1} << 28;

struct ServedArm {
  std::string size, arm, folder;
  ModelConfig model;
  Config config;
};

// The first finished run of each (size, arm) beside the size's dense model. CPT's model is the dense one.
std::vector<ServedArm> served_arms(const Study& study, const std::vector<StudyResult>& results) {
  std::vector<ServedArm> all;
  for (const StudySize& size : study.sizes) {
    const auto add = [&](const std::string& arm, auto&& is_one) {
      for (const StudyResult& r : results)
        if (r.status == "done" && r.run.cell.size == size.name && is_one(r.run)) {
          all.push_back({size.name, arm, r.folder, look_at_step(r.folder).manifest.info.model, r.run.config});
          return;
        }
    };
    add("", [&](const StudyRun& r) { return r.arm.empty() || study.arm(r.arm).from == StartsFrom::Dense; });
    for (const StudyArm& arm : study.arms)
      if (arm.from != StartsFrom::Dense) add(arm.name, [&](const StudyRun& r) { return r.arm == arm.name; });
  }
  return all;
}

// A measurement takes a part of the time that training took, so that it stays in proportion to the study.
std::int64_t seconds_to_measure(const std::vector<StudyResult>& results) {
  double trained = 0;
  for (const StudyResult& r : results) trained += r.measures.wall_seconds;
  return static_cast<std::int64_t>(std::clamp(0.02 * trained, 10.0, 170.0));
}

// Without the folders: models of one shape are served alike.
std::vector<std::string> settings_of(const Study& study, const Config& config) {
  std::vector<std::string> words;
  if (study.serving.input_len > 0) words.push_back(fmt::format("--input-len={}", study.serving.input_len));
  if (study.serving.output_len > 0) words.push_back(fmt::format("--output-len={}", study.serving.output_len));
  if (!study.serving.measure) {
    words.push_back("--predict");
    words.push_back("--machine=" + study.serving.machine);
  }
  for (const std::string& word : inference_arguments(config))
    if (study.serving.measure || !word.starts_with("--device=")) words.push_back(word);
  return words;
}

Json read_kept(const std::string& path) {
  if (!std::filesystem::exists(path)) return Json::array();
  Json j = Json::parse(read_text(path, kMostText), nullptr, false);
  if (!j.is_array()) input_error("{}: found no list, expected what was served; remove the file to measure again", path);
  return j;
}

}  // namespace

ServingResult serving_result(const Json& report, const char* part, const std::string& size, const std::string& arm) {
  const Json &served = report.at(part), &setup = report.at("setup"), &capacity = served.at("capacity");
  ServingResult r;
  r.size = size;
  r.arm = arm;
  const bool predicted = setup.at("predicted").get<bool>();
  r.source = predicted ? "predicted" : "measured";
  r.machine = predicted ? setup.at("machine").get<std::string>() : this_machine();
  if (served.at("layout").is_object()) r.devices = served["layout"].at("ranks").get<std::int64_t>();
  r.requests_per_s = capacity.at("request_throughput").get<double>();
  r.tokens_per_s = capacity.at("tokens_per_s").get<double>();
  r.curve = Json::array();
  for (const Json& point : served.at("load"))
    r.curve.push_back({{"request_rate", point.at("rate")},
                       {"tokens_per_s", point.at("tokens_per_s")},
                       {"latency", point.at("mean_e2el_ms").get<double>() / 1e3},
                       {"sustained", point.at("sustained")}});
  r.latency_alone = served.at("one_request_s").get<double>();
  return r;
}

std::vector<ServingResult> serving_costs(const Study& study, const std::vector<StudyResult>& results,
                                         const RunForJson& run, std::vector<std::string>& problems) {
  std::vector<ServingResult> found;
  if (!study.serving.measure && study.serving.machine.empty()) return found;
  const std::string path = study.output + "/serving.json";
  Json kept = read_kept(path);
  const std::vector<ServedArm> arms = served_arms(study, results);
  const auto dense_of = [&](const std::string& size) -> const ServedArm* {
    for (const ServedArm& a : arms)
      if (a.size == size && a.arm.empty()) return &a;
    return nullptr;
  };
  const auto serve = [&](const ServedArm& arm, const ServedArm* dense) -> const Json& {  // of `kept`
    const std::vector<std::string> settings = settings_of(study, arm.config);
    for (const Json& k : kept)
      if (std::filesystem::path(k.value("folder", "")).filename() == std::filesystem::path(arm.folder).filename() &&
          k.value("settings", Json()) == Json(settings))
        return k;
    std::vector<std::string> words = {"bench", "serve", arm.folder};
    if (dense != nullptr) words.push_back("--baseline=" + dense->folder);
    words.insert(words.end(), settings.begin(), settings.end());
    if (study.serving.measure) words.push_back(fmt::format("--seconds={}", seconds_to_measure(results)));
    words.emplace_back("--json");
    Json report = run(words, study.serving.measure);
    kept.push_back({{"folder", arm.folder},
                    {"settings", settings},
                    {"machine", this_machine()},
                    {"command", words},
                    {"report", std::move(report)}});
    write_text_atomic(path, kept.dump(1) + "\n");
    return kept.back();
  };
  std::vector<std::pair<ModelConfig, ServingResult>> of_model;  // of this size
  std::string size;
  for (const ServedArm& arm : arms) {
    if (arm.size != size) of_model.clear();
    size = arm.size;
    const ServedArm* dense = dense_of(size);
    // The dense model's costs are those beside the size's first MoE, whose baseline it is.
    const bool alone = arm.arm.empty() && std::none_of(arms.begin(), arms.end(), [&](const ServedArm& a) {
                         return a.size == size && a.model != arm.model;
                       });
    if (arm.arm.empty() && !alone) continue;
    const auto same =
        std::find_if(of_model.begin(), of_model.end(), [&](const auto& m) { return m.first == arm.model; });
    if (same != of_model.end()) {
      found.push_back(same->second);
      found.back().arm = arm.arm;
      continue;
    }
    try {
      const Json& one = serve(arm, alone ? nullptr : dense);
      const auto add = [&](const char* part, const std::string& name, const ModelConfig& model) {
        ServingResult r = serving_result(one.at("report"), part, size, name);
        if (r.source == "measured") r.machine = one.value("machine", r.machine);  // that of an earlier start
        of_model.emplace_back(model, r);
        found.push_back(std::move(r));
      };
      if (dense != nullptr && !alone && of_model.empty()) add("baseline", "", dense->model);
      add("model", arm.arm, arm.model);
    } catch (const std::exception& e) {
      problems.push_back(fmt::format("serving of {} {}: {}", size, arm.arm.empty() ? "dense" : arm.arm, e.what()));
    }
  }
  return found;
}

}  // namespace upcycle
