#include "launch/study/costs.h"

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "launch/study/break_even.h"
#include "launch/study/comparisons.h"
#include "launch/study/wording.h"
#include "parallel/serve/machine.h"

namespace upcycle {
namespace {

const ServingResult* find_serving(const std::vector<ServingResult>& serving, const std::string& size,
                                  const std::string& arm) {
  const auto it = std::ranges::find_if(serving, [&](const ServingResult& s) { return s.size == size && s.arm == arm; });
  return it == serving.end() ? nullptr : &*it;
}

double seconds_per_token(const ServingResult& s) {
  return s.tokens_per_s > 0 ? static_cast<double>(s.devices) / s.tokens_per_s : 0;
}

// What training a run cost, and in which unit.
struct TrainingCost {
  std::string unit;
  std::function<double(const StudyResult&)> seconds;
};
TrainingCost training_cost(const Study& study, const std::vector<StudyResult>& results, const ServingResult* serving,
                           const std::pair<const TrainingRate*, const TrainingRate*>& dense_and_moe) {
  if (serving != nullptr && serving->source == "predicted") {
    const Machine machine = read_machine(study.serving.machine);
    return {fmt::format("device-seconds of {}: serving as predicted, training as its FLOPs at {} of the rate of its "
                        "matrix products",
                        machine.name, two_digits(study.serving.training_mfu)),
            [machine, mfu = study.serving.training_mfu](const StudyResult& r) {
              return r.measures.flops / (mfu * machine.product_rate(r.run.config.storage()));
            }};
  }
  if (const auto [dense, moe] = dense_and_moe; dense != nullptr && moe != nullptr)
    return {
        "device-seconds, measured here alone on the machine; training as its tokens at the speed of its "
        "arm's training step, timed while nothing else ran",
        [of_dense = *dense, of_moe = *moe, baseline = study.baseline](const StudyResult& r) {
          const TrainingRate& rate = r.run.arm == baseline ? of_dense : of_moe;
          return static_cast<double>(r.run.tokens) / rate.tokens_per_s * static_cast<double>(rate.ranks);
        }};
  // Other work slows a single run down by chance, which would make a short run the dearer one.
  struct Sum {
    double seconds = 0, tokens = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums;
  for (const StudyResult& r : results) {
    if (r.run.kind != "arm" || r.status != "done") continue;
    Sum& sum = sums[{r.run.cell.size, r.run.arm}];
    sum.seconds += r.measures.wall_seconds;
    sum.tokens += static_cast<double>(r.run.tokens);
  }
  return {
      "device-seconds, measured here; training as its tokens at the mean time per token of its size's and arm's runs" +
          (study.launch.at_once > 1 ? fmt::format(", each with 1/{} of the machine", study.launch.at_once)
                                    : std::string{}),
      [sums, devices = study.devices_of_run()](const StudyResult& r) {
        const Sum& sum = sums.at({r.run.cell.size, r.run.arm});
        return sum.seconds / sum.tokens * static_cast<double>(r.run.tokens) * devices;
      }};
}

// Means over the finished seeds; loss NaN where none has it.
DenseRun mean_run(const std::vector<const StudyResult*>& runs, const std::string& set, const TrainingCost& cost) {
  DenseRun mean;
  for (const StudyResult* r : runs) {
    const SetMeasures* measured = find_set(*r, set);
    mean.loss +=
        (measured == nullptr ? std::nan("") : mean_loss(*measured, Half::Reported)) / static_cast<double>(runs.size());
    mean.seconds += cost.seconds(*r) / static_cast<double>(runs.size());
  }
  if (runs.empty()) mean.loss = std::nan("");
  return mean;
}

Json json_of(const std::optional<double>& x) { return x ? number_or_null(*x) : Json(); }

Json entry(const BreakEvenInput& in, const Cell& cell, const std::string& arm, const std::string& set,
           const std::string& unit) {
  const BreakEven b = break_even(in);
  Json equal = Json::array();
  for (const EqualTotal& e : equal_total(in))
    equal.push_back({{"served_tokens", e.served_tokens},
                     {"total_device_seconds", e.total_seconds},
                     {"baseline_loss", json_of(e.dense_loss)},
                     {"loss", e.moe_loss}});
  const auto positive = [](double x) { return x > 0 ? Json(x) : Json(); };
  return {{"size", cell.size},
          {"duration", cell.duration},
          {"budget", cell.budget},
          {"arm", arm},
          {"set", set},
          {"served_tokens", json_of(b.served_tokens)},
          {"answer", b.answer},
          {"pays", b.pays},
          {"loss_moe", number_or_null(in.moe_loss)},
          {"cpt_seconds_to_reach", json_of(b.dense_seconds)},
          {"moe_seconds", positive(in.moe_training)},
          {"moe_seconds_per_token", positive(in.moe_per_token)},
          {"dense_seconds_per_token", positive(in.dense_per_token)},
          {"unit", unit},
          {"equal_total", equal}};
}

}  // namespace

Json serving_costs_json(const std::vector<ServingResult>& serving) {
  Json all = Json::array();
  for (const ServingResult& s : serving) {
    const ServingResult* dense = find_serving(serving, s.size, "");
    const double cost = seconds_per_token(s), dense_cost = dense == nullptr ? 0 : seconds_per_token(*dense);
    Json curve = Json::array();
    for (const Json& point : s.curve)
      curve.push_back({{"request_rate", point.value("request_rate", Json())},
                       {"tokens_per_second", point.value("tokens_per_s", Json())},
                       {"latency", point.value("latency", Json())},
                       {"sustained", point.value("sustained", Json())}});
    all.push_back({{"size", s.size},
                   {"arm", s.arm},
                   {"source", s.source},
                   {"machine", s.machine},
                   {"devices", s.devices},
                   {"requests_per_second", number_or_null(s.requests_per_s)},
                   {"tokens_per_second", number_or_null(s.tokens_per_s)},
                   {"latency_alone", number_or_null(s.latency_alone)},
                   {"device_seconds_per_token", cost > 0 ? Json(cost) : Json()},
                   {"share_of_dense", cost > 0 && dense_cost > 0 ? Json(dense_cost / cost) : Json()},
                   {"curve", curve}});
  }
  return all;
}

Json break_evens(const Study& study, const std::vector<StudyResult>& results, const std::vector<RateSweep>& sweeps,
                 const std::vector<ServingResult>& serving, const TrainingRates& rates) {
  Json all = Json::array();
  const auto timed = [&](const std::string& size, const std::string& arm) -> const TrainingRate* {
    const auto rate = rates.find({size, arm});
    return rate == rates.end() ? nullptr : &rate->second;
  };
  const auto runs_at = [&](const std::string& arm, const Cell& cell) {
    const auto rate = rate_of(study, sweeps, arm, cell, false);
    auto runs = rate ? results_at(results, arm, cell, *rate) : std::vector<const StudyResult*>{};
    std::erase_if(runs,
                  [](const StudyResult* r) { return r->run.config.train.schedule == "constant"; });  // not decayed
    return runs;
  };
  for (const StudySize& size : study.sizes)
    for (const StudyArm& arm : study.arms) {
      if (arm.from != StartsFrom::Upcycle) continue;
      const ServingResult *dense = find_serving(serving, size.name, ""),
                          *moe = find_serving(serving, size.name, arm.name);
      if (dense != nullptr && moe != nullptr && dense->source != moe->source) dense = nullptr;  // never mixed
      const TrainingCost cost = training_cost(study, results, moe, {timed(size.name, ""), timed(size.name, arm.name)});
      for (const double duration : durations_of(study, size.name)) {
        BreakEvenInput in;
        if (moe != nullptr && dense != nullptr) {
          in.moe_per_token = seconds_per_token(*moe);
          in.dense_per_token = seconds_per_token(*dense);
        }
        for (const double budget : budgets_of(study, size.name))
          in.dense.push_back(mean_run(runs_at(study.baseline, {size.name, duration, budget}), study.new_set, cost));
        for (const double budget : budgets_of(study, size.name)) {
          const Cell cell{size.name, duration, budget};
          const std::vector<const StudyResult*> runs = runs_at(arm.name, cell);
          if (runs.empty()) continue;
          const DenseRun mean = mean_run(runs, study.new_set, cost);
          in.moe_training = mean.seconds;
          in.moe_loss = mean.loss;
          all.push_back(entry(in, cell, arm.name, study.new_set, cost.unit));
        }
      }
    }
  return all;
}

}  // namespace upcycle
