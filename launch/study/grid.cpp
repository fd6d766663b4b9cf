#include "launch/study/grid.h"

#include <algorithm>
#include <cmath>

#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "launch/study/arm_model.h"
#include "parallel/model/params.h"

namespace upcycle {
namespace {

std::int64_t step_tokens(const Config& c) { return c.train.global_batch_size * c.train.seq_length; }
std::int64_t rounded_steps(double tokens, const Config& c) {
  return std::max<std::int64_t>(1, std::llround(tokens / static_cast<double>(step_tokens(c))));
}

struct Wanted {  // a continuation
  const StudyArm* arm;
  Cell cell;
  std::int64_t seed;
  double lr;
  bool sweep, result;
};

class Grid {
 public:
  Grid(const Study& study, const ChosenRate& chosen, const MeasuredRate& measured)
      : s_(study), chosen_(chosen), measured_(measured) {}

  std::vector<StudyRun> runs() {
    want_sweeps();
    want_results();
    for (const StudySize& size : s_.sizes) {
      if (!size.load.empty()) continue;
      add_pretraining(size, nullptr);
      for (const StudyArm& arm : s_.arms)
        if (arm.total_budget && (!arm.only || arm.only->size == size.name)) add_pretraining(size, &arm);
    }
    add_wanted();
    return std::move(runs_);
  }

 private:
  void want(const StudyArm& arm, const Cell& cell, std::int64_t seed, double lr, bool sweep) {
    for (Wanted& w : wanted_) {
      if (w.arm != &arm || !(w.cell == cell) || w.seed != seed || w.lr != lr) continue;
      (sweep ? w.sweep : w.result) = true;
      return;
    }
    wanted_.push_back({&arm, cell, seed, lr, sweep, !sweep});
  }

  bool second_sweep(const StudyArm& arm, const std::string& size) const { return !arm.only && size == s_.verdict.size; }

  void want_sweeps() {
    for (const StudySize& size : s_.sizes)
      for (const StudyArm& arm : s_.arms) {
        if (!arm.swept(size.name) || (arm.only && size.name != arm.only->size)) continue;
        for (const double lr : arm.rates(size.name)) want(arm, sweep_cell(s_, size.name), 1, lr, true);
      }
    for (const StudyArm& arm : s_.arms)
      if (arm.swept(s_.verdict.size) && second_sweep(arm, s_.verdict.size))
        for (const double lr : arm.rates(s_.verdict.size)) want(arm, second_sweep_cell(s_), 1, lr, true);
  }

  std::optional<double> rate_of(const StudyArm& arm, const Cell& cell) const {
    if (!arm.lr_of.empty()) return rate_of(s_.arm(arm.lr_of), cell);
    return arm.swept(cell.size) ? chosen_(arm, cell) : arm.rates(cell.size)[0];
  }

  void want_results() {
    for (const StudySize& size : s_.sizes)
      for (const double duration : durations_of(s_, size.name))
        for (const double budget : budgets_of(s_, size.name))
          for (const StudyArm& arm : s_.arms) {
            const Cell cell{size.name, duration, budget};
            if (arm.only && !(cell == *arm.only)) continue;
            const std::int64_t seeds = arm.only             ? arm.only_seeds
                                       : cell == s_.verdict ? std::max(s_.seeds, s_.verdict_seeds)
                                                            : s_.seeds;
            std::vector<std::optional<double>> rates{rate_of(arm, sweep_cell(s_, size.name))};
            if (cell == second_sweep_cell(s_) && second_sweep(arm, size.name)) rates.push_back(rate_of(arm, cell));
            for (const auto& lr : rates)
              for (std::int64_t seed = 1; lr && seed <= seeds; ++seed) want(arm, cell, seed, *lr, false);
          }
  }

  // Everything that a run's config gets from the study: the general keys, the size's, the stage's, the arm's.
  Json merged(const StudySize& size, const Json& stage, const StudyArm* arm, bool arm_trains) const {
    Json c = s_.run;
    c.merge_patch(size.run);
    c.merge_patch(stage);
    if (arm != nullptr) {
      Json of_arm = arm->run;
      if (!arm_trains) of_arm.erase("train");
      c.merge_patch(of_arm);
    }
    return c;
  }

  // The config of a run, parsed and checked; its model is the one that it trains.
  void finish(StudyRun& run, Json c, const StudySize& size, const StudyArm* arm, const std::string& init,
              std::int64_t steps, const std::vector<WeightedPath>& data) const {
    const bool random = init.empty();
    if (random) {
      Json model = Json::parse(model_json(size.model));
      if (c.contains("model")) model.merge_patch(c["model"]);
      c["model"] = model;
    } else {
      c["init"] = {{arm != nullptr && arm->from == StartsFrom::Upcycle ? "upcycle" : "load", init}};
      if (arm == nullptr || arm->from != StartsFrom::Upcycle) c.erase("model");
    }
    c["seed"] = run.seed;
    c["data"]["seed"] = run.seed;
    for (const WeightedPath& p : data) c["data"]["train"].push_back({{"path", p.path}, {"weight", p.weight}});
    for (const auto& [name, prefix] : s_.valid) c["data"]["valid"][name] = prefix;
    if (!s_.tokenizer.empty()) c["data"]["tokenizer"] = s_.tokenizer;
    c["train"]["steps"] = steps;
    if (run.lr > 0) c["train"]["lr"] = run.lr;
    c["checkpoint"]["dir"] = folder(run.name);
    // Unless the study says otherwise, experts are looked at a quarter of the run apart.
    const bool moe = arm != nullptr && arm->from != StartsFrom::Dense;
    if (!c["checkpoint"].contains("every")) c["checkpoint"]["every"] = std::max<std::int64_t>(1, (steps + 3) / 4);
    if (!c["checkpoint"].contains("keep")) c["checkpoint"]["keep"] = moe && run.kind == "arm" ? 0 : 1;
    run.config_text = c.dump(2);
    run.config = parse_config_text(run.config_text, s_.file + ": run " + run.name, {});
    run.config.model = arm_model(s_, size, arm);
    check_train(run.config);
    run.lr = run.config.train.lr;
    run.tokens = steps * step_tokens(run.config);
    run.flops = static_cast<double>(run.tokens) * flops_per_token(run.config);
    run.own_flops = run.flops;
  }

  double flops_per_token(const Config& c) const {
    return training_flops_per_token(c.model, c.train.seq_length, s_.flops);
  }
  std::string folder(const std::string& run) const { return s_.output + "/runs/" + run; }

  // Adds runs of one config and rising lengths: each by itself or, as a trunk, constant segments (after warm-up) from
  // which each branches off to decay.
  struct Length {
    StudyRun run;  // but for its config
    std::int64_t steps;
  };
  template <class Finish>
  void add_line(std::vector<Length> lengths, const std::string& trunk_name, const Finish& finish_run) {
    std::ranges::sort(lengths, {}, &Length::steps);
    StudyRun before;  // the trunk's last segment
    std::int64_t trunk_steps = 0;
    for (Length& length : lengths) {
      StudyRun& run = length.run;
      if (!s_.trunk) {
        finish_run(run, length.steps, "");
        runs_.push_back(run);
        continue;
      }
      finish_run(run, length.steps, "wsd");  // for its decay_fraction
      const TrainConfig& t = run.config.train;
      const std::int64_t decay = std::llround(t.decay_fraction * static_cast<double>(length.steps));
      const std::int64_t warmup =
          std::max(t.warmup_steps, t.warmup_tokens / step_tokens(run.config));  // one of the two
      const std::int64_t begin = std::max(warmup, length.steps - decay);
      if (begin <= trunk_steps || begin >= length.steps)
        field_error(s_.file, "continuation.trunk",
                    fmt::format("a decay of {} of {} steps for {}", decay, length.steps, run.name),
                    fmt::format("one that begins after step {}, where the branch before it does", trunk_steps),
                    "lower train.decay_fraction, or space the budgets out");
      StudyRun trunk = run;
      trunk.kind = "trunk";
      trunk.sweep = trunk.result = false;
      trunk.name = trunk_name + fmt::format("-trunk{}", begin);
      if (trunk_steps > 0) {
        trunk.needs = {before.name};
        trunk.continues = before.name;
      }
      finish_run(trunk, begin, "constant");
      trunk.own_flops = trunk.flops - before.flops;
      runs_.push_back(trunk);
      run.needs = {trunk.name};
      run.continues = trunk.name;
      run.own_flops = run.flops - trunk.flops;
      runs_.push_back(run);
      before = trunk;
      trunk_steps = begin;
    }
  }

  static Json with_schedule(Json c, const std::string& schedule) {
    if (!schedule.empty()) c["train"]["schedule"] = schedule;
    return c;
  }

  std::string pretrained_name(const StudySize& size, double duration, const StudyArm* arm) const {
    return fmt::format("{}-d{:g}{}", size.name, duration, arm == nullptr ? "" : "-" + arm->name);
  }

  // The dense model, or a from-scratch arm with as many FLOPs (or tokens, or seconds).
  void add_pretraining(const StudySize& size, const StudyArm* arm) {
    const Json c = merged(size, s_.pretraining_run, arm, false);
    std::vector<Length> lengths;
    for (const double duration : durations_of(s_, size.name)) {
      if (arm != nullptr && arm->only && arm->only->duration != duration) continue;
      StudyRun run;
      run.name = pretrained_name(size, duration, arm);
      run.kind = "pretraining";
      run.arm = arm == nullptr ? "" : arm->name;
      run.cell = {size.name, duration, 0};
      const auto tokens = matched(size, arm, dense_tokens(size, duration));
      if (!tokens) return;
      lengths.push_back({run, rounded_steps(*tokens, stage_config(size, s_.pretraining_run))});
    }
    add_line(lengths, size.name + (arm == nullptr ? "" : "-" + arm->name),
             [&](StudyRun& run, std::int64_t steps, const std::string& schedule) {
               finish(run, with_schedule(c, schedule), size, arm, "", steps, s_.pretraining_data);
             });
  }

  Config stage_config(const StudySize& size, const Json& stage) const {
    return parse_config_text(merged(size, stage, nullptr, false).dump(), s_.file, {});
  }

  // Tokens of the dense model's pretraining, in whole steps.
  double dense_tokens(const StudySize& size, double duration) const {
    if (!size.load.empty()) return static_cast<double>(size.pretrained_tokens);
    const Config c = stage_config(size, s_.pretraining_run);
    const double tokens = duration * static_cast<double>(count_parameters(size.model).total);
    return static_cast<double>(rounded_steps(tokens, c) * step_tokens(c));
  }

  // The tokens of an arm that match so many of the dense model. Null: its speed is not measured yet.
  std::optional<double> matched(const StudySize& size, const StudyArm* arm, double tokens) const {
    if (arm == nullptr || s_.match == Match::Tokens) return tokens;
    Config c = stage_config(size, s_.continuation_run);
    if (s_.match == Match::Flops) {
      const double dense = training_flops_per_token(size.model, c.train.seq_length, s_.flops);
      return tokens * dense / training_flops_per_token(arm_model(s_, size, arm), c.train.seq_length, s_.flops);
    }
    const auto dense = measured_(size.name, s_.baseline), mine = measured_(size.name, arm->name);
    if (!dense || !mine) return {};
    return tokens / *dense * *mine;
  }

  void add_wanted() {
    std::vector<bool> added(wanted_.size(), false);
    for (std::size_t i = 0; i < wanted_.size(); ++i) {
      if (added[i]) continue;
      const Wanted& first = wanted_[i];
      const StudyArm& arm = *first.arm;
      const StudySize& size = s_.size(first.cell.size);
      const Json c = merged(size, s_.continuation_run, &arm, true);
      std::string init = size.load, needs;
      if (init.empty() && (arm.from != StartsFrom::Random || arm.total_budget)) {
        needs = pretrained_name(size, first.cell.duration, arm.total_budget ? &arm : nullptr);
        init = folder(needs);
      }
      if (arm.from == StartsFrom::Random && !arm.total_budget) init.clear();
      std::vector<Length> lengths;
      for (std::size_t j = i; j < wanted_.size(); ++j) {
        const Wanted& w = wanted_[j];
        const bool same_line = w.arm == first.arm && w.seed == first.seed && w.lr == first.lr &&
                               w.cell.size == first.cell.size && w.cell.duration == first.cell.duration;
        if (added[j] || !(j == i || (s_.trunk && same_line))) continue;
        const double budget =
            s_.budgets_in_tokens ? w.cell.budget : w.cell.budget * dense_tokens(size, w.cell.duration);
        const auto tokens = matched(size, &arm, budget);
        added[j] = true;
        if (!tokens) continue;
        StudyRun run;
        run.name = fmt::format("{}-b{:g}-{}-lr{:g}-s{}", pretrained_name(size, w.cell.duration, nullptr), w.cell.budget,
                               arm.name, w.lr, w.seed);
        run.kind = "arm";
        run.arm = arm.name;
        run.cell = w.cell;
        run.seed = w.seed;
        run.lr = w.lr;
        run.sweep = w.sweep;
        run.result = w.result;
        if (!needs.empty()) run.needs = {needs};
        lengths.push_back({run, rounded_steps(*tokens, parse_config_text(c.dump(), s_.file, {}))});
      }
      const std::string line = fmt::format("{}-{}-lr{:g}-s{}", pretrained_name(size, first.cell.duration, nullptr),
                                           arm.name, first.lr, first.seed);
      add_line(lengths, line, [&](StudyRun& run, std::int64_t steps, const std::string& schedule) {
        finish(run, with_schedule(c, schedule), size, &arm, init, steps, s_.continuation_data);
      });
    }
  }

  const Study& s_;
  const ChosenRate& chosen_;
  const MeasuredRate& measured_;
  std::vector<Wanted> wanted_;
  std::vector<StudyRun> runs_;
};

}  // namespace

Cell sweep_cell(const Study& s, const std::string& size) {
  const std::vector<double> budgets = budgets_of(s, size);
  const bool has = std::ranges::find(budgets, s.sweep_budget) != budgets.end();
  return {size, durations_of(s, size).front(), has ? s.sweep_budget : budgets.front()};
}

Cell second_sweep_cell(const Study& s) {
  return {s.verdict.size, s.verdict.duration, budgets_of(s, s.verdict.size).back()};
}

std::vector<StudyRun> known_runs(const Study& study, const ChosenRate& chosen, const MeasuredRate& measured) {
  return Grid(study, chosen, measured).runs();
}

}  // namespace upcycle
