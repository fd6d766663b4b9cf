#include "launch/study/rates.h"

#include <filesystem>
#include <limits>

#include "core/config/describe.h"
#include "core/error.h"
#include "data/files.h"
#include "launch/study/arm_model.h"

namespace upcycle {
namespace {
constexpr std::size_t kMostText = std::size_t{1} << 24;

}  // namespace

std::optional<double> chosen_rate(const StudyArm& arm, const Cell& cell, const std::vector<StudyRun>& runs,
                                  const std::map<std::string, Settled>& settled) {
  struct Sum {
    double loss = 0;
    int n = 0;
    bool failed = false;
  };
  std::map<double, Sum> rates;
  for (const StudyRun& r : runs) {
    if (!r.sweep || r.arm != arm.name || !(r.cell == cell)) continue;
    const auto s = settled.find(r.name);
    if (s == settled.end()) return std::nullopt;
    Sum& sum = rates[r.lr];
    sum.loss += s->second.loss;
    ++sum.n;
    sum.failed = sum.failed || !s->second.done;
  }
  std::optional<double> best;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [rate, sum] : rates)
    if (!sum.failed && sum.loss / sum.n < least) {
      least = sum.loss / sum.n;
      best = rate;
    }
  return best;
}

TrainingRates read_rates(const Study& study) {
  const std::string path = study.output + "/rates.json";
  TrainingRates rates;
  if (!std::filesystem::exists(path)) return rates;
  const Json j = Json::parse(read_text(path, kMostText), nullptr, false);
  const auto refuse = [&] {
    input_error(
        "{}: found something else than a list of {{size, arm, tokens_per_s}}; remove the file to time them again",
        path);
  };
  if (!j.is_array()) refuse();
  for (const Json& r : j) {
    if (!r.is_object() || !r.contains("size") || !r.contains("arm") || !r.contains("tokens_per_s") ||
        !r["tokens_per_s"].is_number())
      refuse();
    rates[{r["size"].get<std::string>(), r["arm"].get<std::string>()}] = {r["tokens_per_s"].get<double>(),
                                                                          r.value("ranks", study.launch.ranks)};
  }
  return rates;
}

void write_rates(const Study& study, const TrainingRates& rates) {
  Json j = Json::array();
  for (const auto& [of, rate] : rates)
    j.push_back({{"size", of.first}, {"arm", of.second}, {"tokens_per_s", rate.tokens_per_s}, {"ranks", rate.ranks}});
  write_text_atomic(study.output + "/rates.json", j.dump(1) + "\n");
}

std::string config_to_time(const Study& study, const StudySize& size, const StudyArm* arm) {
  Json c = Json::object();
  const auto apply = [&](const Json& keys) {
    if (keys.is_object()) c.merge_patch(keys);
  };
  apply(study.run);
  apply(size.run);
  apply(study.continuation_run);
  if (arm != nullptr) apply(arm->run);
  for (const char* key : {"init", "upcycle", "data", "checkpoint"}) c.erase(key);
  c["model"] = Json::parse(to_json(arm_model(study, size, arm)));
  return c.dump(1) + "\n";
}

}  // namespace upcycle
