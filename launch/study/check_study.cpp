#include <algorithm>
#include <map>

#include "core/config/fields.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "data/sampler.h"
#include "launch/backend.h"
#include "launch/check_fits.h"
#include "launch/cloze_items.h"
#include "launch/model_files.h"
#include "launch/study/study_plan.h"
#include "parallel/plan/plan.h"

namespace upcycle {
namespace {

// A prefix's tokens, checked for the vocabulary.
TokenSet opened(const Study& s, const std::string& prefix) {
  TokenSet set = TokenSet::open(prefix, s.sizes[0].model.vocab_size);
  set.check_ids();
  return set;
}

double share_of(const std::vector<WeightedPath>& blend, const std::string& path) {
  double all = 0, mine = 0;
  for (const WeightedPath& p : blend) {
    all += p.weight;
    if (p.path == path) mine += p.weight;
  }
  return all > 0 ? mine / all : 0;
}

// Epochs of each set that a run trains on, those of its pretraining in this study included.
void check_epochs(const Study& s, const StudyRun& run, const std::vector<StudyRun>& planned, const std::string& key) {
  const bool total = !run.arm.empty() && s.arm(run.arm).total_budget,
             alone = !run.arm.empty() && s.arm(run.arm).from == StartsFrom::Random && !total;
  const auto before = std::ranges::find_if(planned, [&](const StudyRun& r) {
    return run.kind != "pretraining" && !alone && r.kind == "pretraining" && r.cell.size == run.cell.size &&
           r.cell.duration == run.cell.duration && r.arm == (total ? run.arm : "");
  });
  for (const WeightedPath& p : run.config.data.train) {
    double tokens = static_cast<double>(run.tokens) * share_of(run.config.data.train, p.path);
    if (before != planned.end())
      tokens += static_cast<double>(before->tokens) * share_of(before->config.data.train, p.path);
    const auto has = static_cast<double>(TokenSet::open(p.path).tokens());
    if (tokens / has > s.most_epochs)
      field_error(
          s.file, key,
          fmt::format("{} with {:.4g} tokens, which is {:.3g} epochs of {}", p.path, has, tokens / has, run.name),
          fmt::format("data for at most {:g} epochs", s.most_epochs),
          "use more text or smaller budgets, or raise data.most_epochs");
  }
}

// A cloze of the set, for every size.
void check_cloze(const Study& s, const std::string& name, const TokenSet& set) {
  if (s.cloze.items == 0) return;
  for (const StudySize& size : s.sizes)
    if (s.cloze.context + s.cloze.length > size.model.max_position_embeddings)
      field_error(s.file, "cloze.context", fmt::format("{} and length {}", s.cloze.context, s.cloze.length),
                  fmt::format("together at most the {} positions of {}", size.model.max_position_embeddings, size.name),
                  "shorten them");
  try {
    ClozeRule rule;
    rule.items = s.cloze.items;
    rule.candidates = s.cloze.candidates;
    rule.context = s.cloze.context;
    rule.length = s.cloze.length;
    (void)draw_cloze(set, rule);
  } catch (const InputError& e) {
    field_error(s.file, "data.valid." + name, e.what(), fmt::format("a cloze of {} items", s.cloze.items),
                "hold more text out, shorten cloze.context and cloze.length, or set cloze.items to 0");
  }
}

void check_data_sets(const Study& s, const std::vector<StudyRun>& planned) {
  for (const auto* data : {&s.pretraining_data, &s.continuation_data})
    for (const WeightedPath& p : *data) opened(s, p.path);
  for (const auto& [name, prefix] : s.valid) {
    const TokenSet set = opened(s, prefix);
    if (set.documents() + set.tokens() / kLongestDocument < 20)
      field_error(
          s.file, "data.valid." + name,
          fmt::format("{} with {} documents and {} tokens", prefix, set.documents(), set.tokens()),
          fmt::format("at least 20 documents, or pieces of {} tokens of long ones", kLongestDocument),
          "half choose learning rates, half are reported, and a bootstrap is over documents: hold more text out, "
          "with `upcycle tokenize --doc-separator`");
    check_cloze(s, name, set);
  }
  if (!s.tokenizer.empty())
    for (const StudySize& size : s.sizes) check_tokenizer(s.tokenizer, size.model);
  for (const StudyRun& run : planned)
    check_epochs(s, run, planned, run.kind == "pretraining" ? "data.pretraining" : "data.continuation");
}

void check_machine(const Study& s, const std::vector<StudyRun>& planned) {
  std::map<std::string, bool> seen;
  for (const StudyRun& run : planned) {
    if (seen.contains(run.cell.size + run.arm)) continue;
    seen[run.cell.size + run.arm] = true;
    if (s.launch.command.empty()) check_backend_is_built(run.config);
    check_kernel_limits(run.config.device, run.config.model, s.file + ": run " + run.name);
    const PlannedRun plan{run.config, {}, workspace_of(run.config)};
    (void)check_layout(plan, static_cast<int>(s.launch.ranks));
    if (run.config.device != "cpu" || !s.launch.command.empty()) continue;  // where it runs is not known here
    std::size_t bytes = 0;
    for (int rank = 0; rank < s.launch.ranks; ++rank)
      bytes += make_plan(plan, static_cast<int>(s.launch.ranks), rank).peak_bytes();
    bytes *= static_cast<std::size_t>(s.launch.at_once);
    const std::size_t free = host_memory().free;
    if (bytes > free)
      field_error(s.file, "sizes." + run.cell.size,
                  fmt::format("{:.3g} GB for {} runs like {} at once", static_cast<double>(bytes) / 1e9,
                              s.launch.at_once, run.name),
                  fmt::format("at most the {:.3g} GB that are free here", static_cast<double>(free) / 1e9),
                  "lower launch.at_once or train.micro_batch_size, or use a larger machine");
  }
}

}  // namespace

void check_study(const Study& study, const std::vector<StudyRun>& planned) {
  check_runs(study, planned);
  check_data_sets(study, planned);
  check_machine(study, planned);
}

}  // namespace upcycle
