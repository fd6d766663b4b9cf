#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/model/params.h"

// A study: a grid of dense sizes x pretraining durations x budgets x arms, as written in study.json (`upcycle help
// study` prints its keys). What runs it consists of is grid.h's.
namespace upcycle {

using Json = nlohmann::ordered_json;

enum class Match { Flops, Tokens, WallTime };      // what is equal between the arms of a budget
enum class StartsFrom { Dense, Upcycle, Random };  // CPT, upcycling, from scratch

struct StudySize {
  std::string name;
  ModelConfig model;              // dense
  std::vector<double> durations;  // tokens per parameter; empty: the study's
  std::vector<double> budgets;    // empty: the study's
  std::string load;               // a model that is pretrained already: nothing is pretrained; "" = pretrain it here
  std::int64_t pretrained_tokens = 0;  // of `load`; 0: not known, budgets are given in tokens
  Json run;                            // config keys of all runs of this size
};

// One cell of the grid: a size, how long it was pretrained, and what it is continued with.
struct Cell {
  std::string size;
  double duration =
      0;  // pretraining tokens per parameter; of a loaded model pretrained_tokens / parameters, 0: not known
  double budget = 0;  // share of the pretraining's FLOPs; where that is not known, CPT's tokens
  bool operator==(const Cell&) const = default;
};

struct StudyArm {
  std::string name;
  StartsFrom from = StartsFrom::Dense;
  bool total_budget = false;  // Random: pretrained too, with as many FLOPs as the dense model, then continued
  std::optional<Cell> only;   // runs on this cell alone, with `only_seeds`; null: on all
  std::int64_t only_seeds = 0;
  // Of each size ("" = those without their own). One: given, not swept; else at least 3.
  std::map<std::string, std::vector<double>> learning_rates;
  std::string lr_of;  // takes the rate that this arm's sweep chose; "" = its own
  Json run;           // config keys of its runs: model, upcycle, train

  const std::vector<double>& rates(const std::string& size) const;
  bool swept(const std::string& size) const { return rates(size).size() > 1; }
};

struct Study {
  std::string file, name, output;  // output: the folder of everything that it writes
  FlopsCount flops = FlopsCount::Causal;
  Match match = Match::Flops;
  std::string tokenizer;
  std::vector<WeightedPath> pretraining_data, continuation_data;
  std::vector<std::pair<std::string, std::string>> valid;  // name, PREFIX; the domain of the continuation is `new_set`
  std::string old_set, new_set;                            // names in `valid`; old_set "" = only one domain
  double most_epochs = 4;
  Json run, pretraining_run, continuation_run;  // config keys of all runs; of pretraining; of continuations
  std::vector<StudySize> sizes;
  std::vector<double> durations;  // tokens per parameter
  std::vector<double> budgets;    // ascending; shares, or tokens (budgets_in_tokens)
  bool budgets_in_tokens = false;
  double sweep_budget = 0;   // of the first sweep of learning rates; 0: the smallest
  double most_warmup = 0.1;  // share of the shortest budget that a warm-up may take
  bool trunk = false;        // budgets are branches of one warm-up-stable-decay trunk, not runs of their own
  std::vector<StudyArm> arms;
  std::string baseline, candidate;  // the arms that the verdict compares: CPT and the upcycled one
  std::int64_t seeds = 1, verdict_seeds = 1;
  Cell verdict;  // the cell behind the verdict; by default of the largest size the longest
                 // duration's largest budget
  struct Cloze {
    std::int64_t items = 1000, candidates = 4, context = 64, length = 16;  // tokens
  } cloze;
  struct Serving {
    bool measure = false;  // on this machine
    std::string machine;   // predicted for this machine file; "" = not
    std::int64_t input_len = 0, output_len = 0;
    double training_mfu = 0;  // predicted: share of the machine's product rate that training reaches there
  } serving;
  struct Launch {
    std::int64_t ranks = 1, at_once = 1, threads = 0;  // of one run; runs at the same time; 0: cores / at_once / ranks
    std::vector<std::string>
        command;  // starts a run on its ranks, e.g. ["mpirun", "-n", "{ranks}"]; empty: launch/run_local.sh's
  } launch;

  // Devices that a run has to itself: those that train at the same time share them.
  double devices_of_run() const { return static_cast<double>(launch.ranks) / static_cast<double>(launch.at_once); }
  const StudyArm& arm(const std::string& name) const;
  const StudySize& size(const std::string& name) const;
};

// Held-out documents longer than this are taken in pieces of so many tokens, so that a few long ones still make many.
inline constexpr std::int64_t kLongestDocument = 2048;

std::vector<double> budgets_of(const Study& study, const std::string& size);
// Pretraining tokens per parameter of a size; one for a loaded model, 0 where it is not known.
std::vector<double> durations_of(const Study& study, const std::string& size);

bool is_study(const std::string& file);  // rather than the config of one run

// (read_study.cpp) Reads study.json with overrides "--a.b=value" (dotted paths into it). InputError: file, field,
// found, expected, what to do, also for arms that can not be compared.
Study read_study(const std::string& file, const std::vector<std::string>& overrides);
Study parse_study(const std::string& text, const std::string& file, const std::vector<std::string>& overrides);

}  // namespace upcycle
