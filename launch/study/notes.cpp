#include "launch/study/notes.h"

#include <algorithm>
#include <map>

#include "launch/study/bootstrap.h"
#include "launch/study/wording.h"

namespace upcycle {
namespace {

constexpr std::size_t kFewDocuments = 30;

std::string cell_text(const Study& study, const Cell& cell) {
  return fmt::format("{}, {:g} tokens per parameter, budget {}", cell.size, cell.duration,
                     study.budgets_in_tokens ? two_digits(cell.budget) + " tokens" : fmt::format("{:g}", cell.budget));
}

void about_runs(const Json& runs, Json& notes) {
  std::size_t missing = 0;
  for (const Json& r : runs) {
    missing += r["status"] == "missing";
    if (r["status"] == "failed")
      notes.push_back(fmt::format("{} failed: {}", r["name"].get<std::string>(), r["error"].get<std::string>()));
  }
  if (missing > 0)
    notes.push_back(counted(missing, "run") + (missing == 1 ? " is" : " are") +
                    " not done; everything here is without.");
  double epochs = 0;
  std::string most;
  for (const Json& r : runs)
    if (r["epochs"].is_number() && r["epochs"] > epochs) {
      epochs = r["epochs"];
      most = r["name"];
    }
  if (epochs > 1)
    notes.push_back(fmt::format("Some runs see their text more than once; {}, the most, {:.1f} times.", most, epochs));
}

void about_seeds(const Study& study, const std::vector<StudyResult>& results, Json& notes) {
  const std::int64_t most = std::max(study.seeds, study.verdict_seeds);
  notes.push_back(
      "Seeds change the order of the text and what upcycling draws at random. The dense model that continuations start "
      "from is the same for all of them, so what another pretraining would change is not in the spread.");
  if (most == 1) notes.push_back("One seed: the spread over seeds is not known.");
  notes.push_back(kIntervalRule);
  notes.push_back(
      "Learning rates are chosen by the loss of the first half of the documents of the held-out text; what is reported "
      "is that of the second. Cloze items are drawn from all of it and reported are those that lie in the second.");
  notes.push_back(fmt::format(
      "A held-out document of more than {} tokens counts as several, pieces of so many: neighbours are alike, so that "
      "intervals from few long documents are somewhat too narrow.",
      kLongestDocument));
  for (const auto& [name, prefix] : study.valid) {
    std::size_t least = kFewDocuments;
    for (const StudyResult& r : results)
      if (const SetMeasures* set = find_set(r, name)) least = std::min(least, set->documents.size() / 2);
    if (least < kFewDocuments)
      notes.push_back(fmt::format("Only {} of {} are reported on: standard errors from so few are rough.",
                                  counted(least, "document"), name));
  }
}

void about_rates(const Study& study, const std::vector<RateSweep>& sweeps, Json& notes) {
  std::vector<std::string> given;
  for (const StudyArm& arm : study.arms) {
    if (!arm.lr_of.empty())
      notes.push_back(fmt::format("The learning rate of {} is not swept: it takes that of {}.", arm.name, arm.lr_of));
    else
      for (const StudySize& size : study.sizes)
        if (!arm.swept(size.name))
          given.push_back(fmt::format("{} at {} ({})", arm.name, size.name, two_digits(arm.rates(size.name)[0])));
  }
  if (!given.empty()) notes.push_back(fmt::format("Given and not swept: the learning rate of {}.", listed(given)));
  double flops = 0, seconds = 0;
  std::vector<std::string> at_end;
  bool again = false;
  for (const RateSweep& s : sweeps) {
    flops += s.flops;
    seconds += s.wall_seconds;
    again = again || s.again;
    if (s.best && !s.interior)
      at_end.push_back(fmt::format("{} of {} at {}", two_digits(*s.best), s.arm, cell_text(study, s.cell)));
  }
  if (!at_end.empty()) {
    std::string all;
    for (const std::string& one : at_end) all += (all.empty() ? "" : "; ") + one;
    notes.push_back(fmt::format(
        "Best learning rates that lie at an end of their sweep, so that a better one may lie beyond: {}.", all));
  }
  if (!sweeps.empty())
    notes.push_back(fmt::format(
        "Learning rates are swept with one seed at the shortest duration and kept (\"paper\"){}. The sweeps "
        "took {} FLOPs and {:.0f} s, runs included that are results too.",
        again ? fmt::format(", and for {} again at the largest budget (\"best per budget\")", study.verdict.size) : "",
        two_digits(flops), seconds));
}

// How many times as fast as its slowest run an arm's fastest of the same size is; the most of all arms.
double spread_of_speed(const std::vector<StudyResult>& results) {
  std::map<std::pair<std::string, std::string>, std::pair<double, double>> ranges;
  double most = 1;
  for (const StudyResult& r : results) {
    if (r.run.kind != "arm" || r.status != "done" || !(r.measures.tokens_per_s > 0)) continue;
    const double speed = r.measures.tokens_per_s;
    auto& [low, high] = ranges.try_emplace({r.run.cell.size, r.run.arm}, speed, speed).first->second;
    low = std::min(low, speed);
    high = std::max(high, speed);
    most = std::max(most, high / low);
  }
  return most;
}

// Training steps were not timed alone: its cost is that of the runs, of which other work slows some down.
void about_measured_training(const Study& study, const std::vector<StudyResult>& results, Json& notes) {
  notes.push_back(
      fmt::format("What training costs is taken from the runs, whose speed depends on what else the machine does: runs "
                  "of one arm and size differ by up to {} times in tokens/s, and break-even is as uncertain.",
                  two_digits(spread_of_speed(results))));
  if (study.launch.at_once > 1)
    notes.push_back(
        fmt::format("Up to {0} runs trained at the same time, each counted with 1/{0} of the machine; serving was "
                    "measured with all of it.",
                    study.launch.at_once));
}

void about_what_is_compared(const Study& study, const std::vector<StudyResult>& results, Json& notes) {
  if (study.trunk)
    notes.push_back(
        "Durations and budgets are branches of one warm-up-stable-decay trunk each, not runs with a schedule of their "
        "own as the paper's: a branch's tokens, FLOPs and time include its trunk's.");
  if (std::ranges::any_of(results, [](const StudyResult& r) {
        return r.run.kind == "arm" && r.run.config.train.schedule == "constant";
      }))
    notes.push_back(
        "Runs with a constant learning rate are left out of the break-even: their loss would fall once it decays.");
  if (!study.old_set.empty())
    notes.push_back(
        fmt::format("A gain on {} mixes adaptation to its domain with capacity; {} shows what was forgotten.",
                    study.new_set, study.old_set));
  else
    notes.push_back("Loss is known of one domain only: a gain may be adaptation to it as well as capacity.");
  for (const StudyArm& arm : study.arms)
    if (arm.from == StartsFrom::Random)
      notes.push_back(fmt::format("{} starts from scratch{}; no break-even is made of it.", arm.name,
                                  arm.total_budget ? ", with the dense model's pretraining budget as well" : ""));
}

}  // namespace

Json notes(const Study& study, const std::vector<StudyResult>& results, const Json& runs,
           const std::vector<RateSweep>& sweeps, const std::vector<ServingResult>& serving,
           const TrainingRates& rates) {
  Json all = Json::array();
  about_runs(runs, all);
  about_seeds(study, results, all);
  about_rates(study, sweeps, all);
  about_what_is_compared(study, results, all);
  if (rates.empty() && std::ranges::any_of(serving, [](const ServingResult& s) { return s.source == "measured"; }))
    about_measured_training(study, results, all);
  return all;
}

}  // namespace upcycle
