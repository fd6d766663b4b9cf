#include "launch/study/report_runs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "core/config/describe.h"
#include "core/error.h"
#include "data/token_set.h"
#include "launch/study/comparisons.h"
#include "launch/study/run_metrics.h"
#include "launch/study/sweeps.h"

namespace upcycle {
namespace {

template <class T>
std::size_t place_of(const std::vector<T>& list, const std::string& name) {
  return static_cast<std::size_t>(std::ranges::find(list, name, &T::name) - list.begin());
}

void collect_values(const Json& value, const std::string& key, std::map<std::string, Json>& values) {
  if (!value.is_object() || key == "data.valid") {
    values[key] = value;
    return;
  }
  for (const auto& [name, inner] : value.items())
    collect_values(inner, key.empty() ? name : fmt::format("{}.{}", key, name), values);
}

// How often a run sees the set that it sees most often; null where the files are gone.
class Epochs {
 public:
  Json of(const StudyRun& run) {
    double weights = 0, most = 0;
    for (const WeightedPath& path : run.config.data.train) weights += path.weight;
    for (const WeightedPath& path : run.config.data.train) {
      const std::optional<double> tokens = tokens_of(path.path);
      if (!tokens) return {};
      most = std::max(most, static_cast<double>(run.tokens) * path.weight / weights / *tokens);
    }
    return most > 0 ? number_or_null(most) : Json();
  }

 private:
  std::optional<double> tokens_of(const std::string& prefix) {
    const auto [at, is_new] = tokens_.try_emplace(prefix);
    if (!is_new) return at->second;
    try {
      at->second = static_cast<double>(TokenSet::open(prefix).tokens());
    } catch (const InputError&) {  // a report may be made where the text is not
    }
    return at->second;
  }
  std::map<std::string, std::optional<double>> tokens_;
};

// What `upcycle experts --json` says of each kept checkpoint (one number per layer), as lists over the checkpoints.
Json experts_json(const Json& checkpoints) {
  if (!checkpoints.is_array() || checkpoints.empty()) return {};
  Json j = {{"tokens", Json::array()}, {"layers", checkpoints.back().value("layers", Json::array())}};
  for (const Json& c : checkpoints) j["tokens"].push_back(c.value("trained_tokens", Json()));
  for (const char* key : {"weight_cosine", "pair_cosine", "output_cosine", "routing_changed", "load"}) {
    j[key] = Json::array();
    for (const Json& c : checkpoints) j[key].push_back(c.value(key, Json()));
  }
  return j;
}

// The last line of a log may hold anything; JSON takes UTF-8 only.
Json valid_text(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

Json measured(double x) { return x > 0 ? number_or_null(x) : Json(); }

Json run_json(const Study& study, const StudyResult& r, const StudyResult* baseline, double own_seconds,
              Epochs& epochs) {
  const bool done = r.status == "done";
  const RunMeasures m = done ? r.measures : RunMeasures{};
  Json loss = Json::object(), bits = Json::object(), cloze = Json::object();
  for (const auto& [name, prefix] : study.valid) {
    const SetMeasures* set = done ? find_set(r, name) : nullptr;
    loss[name] = set == nullptr ? Json() : number_or_null(mean_loss(*set, Half::Reported));
    bits[name] = set == nullptr ? Json() : number_or_null(bits_per_byte(*set, Half::Reported));
    if (set != nullptr && !set->cloze.empty()) cloze[name] = cloze_score(*set);
  }
  CurvesJson curves = curves_json(r.folder, study.valid);
  return {
      {"name", r.run.name},
      {"kind", r.run.kind},
      {"arm", r.run.arm},
      {"size", r.run.cell.size},
      {"duration", r.run.cell.duration},
      {"budget", r.run.cell.budget},
      {"seed", r.run.seed},
      {"learning_rate", r.run.lr},
      {"sweep", r.run.sweep},
      {"result", r.run.result},
      {"status", r.status},
      {"error", valid_text(r.error)},
      {"folder", r.folder},
      {"command", r.command},
      {"differences",
       baseline == nullptr || baseline == &r ? Json::object() : config_differences(r.run.config, baseline->run.config)},
      {"parameters", done ? Json(m.parameters) : Json()},
      {"active_parameters", done ? Json(m.active_parameters) : Json()},
      {"tokens", r.run.tokens},
      {"flops", r.run.flops},
      {"wall_seconds", measured(m.wall_seconds)},
      {"device_seconds", measured(m.wall_seconds * study.devices_of_run())},
      {"own_flops", r.run.own_flops},
      {"own_device_seconds", done ? measured(own_seconds * study.devices_of_run()) : Json()},
      {"tokens_per_second", measured(m.tokens_per_s)},
      {"epochs", epochs.of(r.run)},
      {"last_50_loss", measured(m.last_50_loss)},
      {"loss", loss},
      {"bits_per_byte", bits},
      {"cloze", cloze},
      {"curve", std::move(curves.curve)},
      {"held_out", std::move(curves.held_out)},
      {"load", std::move(curves.load)},
      {"experts", experts_json(m.experts)}};
}

// The baseline's run that a run is to be compared with: of its cell, best a result with the same seed.
const StudyResult* baseline_of(const Study& study, const std::vector<StudyResult>& results, const StudyResult& r) {
  const StudyResult* best = nullptr;
  const auto fits = [&](const StudyResult& b) { return std::tuple(b.run.result, b.run.seed == r.run.seed); };
  for (const StudyResult& b : results)
    if (b.run.kind == "arm" && b.run.arm == study.baseline && b.run.cell == r.run.cell &&
        (best == nullptr || fits(b) > fits(*best)))
      best = &b;
  return best;
}

}  // namespace

std::vector<StudyResult> in_order(const Study& study, std::vector<StudyResult> results) {
  const std::vector<std::string> kinds = {"pretraining", "trunk", "arm"};
  const auto key = [&](const StudyResult& r) {
    return std::tuple(std::ranges::find(kinds, r.run.kind) - kinds.begin(), place_of(study.sizes, r.run.cell.size),
                      r.run.cell.duration, r.run.cell.budget, place_of(study.arms, r.run.arm), r.run.lr, r.run.seed,
                      r.run.name);
  };
  std::ranges::sort(results, {}, key);
  return results;
}

std::vector<ServingResult> in_order(const Study& study, std::vector<ServingResult> serving) {
  std::ranges::sort(serving, {}, [&](const ServingResult& s) {
    return std::tuple(place_of(study.sizes, s.size), s.arm.empty() ? 0 : 1 + place_of(study.arms, s.arm), s.arm);
  });
  return serving;
}

Json runs_json(const Study& study, const std::vector<StudyResult>& results) {
  Epochs epochs;
  Json runs = Json::array();
  for (const StudyResult& r : results)
    runs.push_back(run_json(study, r, r.run.kind == "arm" ? baseline_of(study, results, r) : nullptr,
                            own_seconds(results, r), epochs));
  return runs;
}

Json config_differences(const Config& config, const Config& baseline) {
  std::map<std::string, Json> mine, theirs;
  collect_values(Json::parse(to_json(config)), "", mine);
  collect_values(Json::parse(to_json(baseline)), "", theirs);
  Json differences = Json::object();
  for (const auto& [key, value] : mine)
    if (key != "checkpoint.dir" && value != theirs[key]) differences[key] = value;
  return differences;
}

}  // namespace upcycle
