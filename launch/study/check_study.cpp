#include <unistd.h>

#include <algorithm>
#include <map>

#include "core/config/fields.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "core/suggest.h"
#include "data/sampler.h"
#include "launch/backend.h"
#include "launch/check_fits.h"
#include "launch/model_files.h"
#include "launch/study/study_plan.h"
#include "parallel/plan/plan.h"

namespace upcycle {
namespace {

double warmup_tokens(const Config& c) {
  const std::int64_t step = c.train.global_batch_size * c.train.seq_length;
  return static_cast<double>(std::max(c.train.warmup_tokens, c.train.warmup_steps * step));  // one of the two
}

void check_comparable(const Study& s, const std::vector<StudyRun>& planned) {
  for (const StudySize& size : s.sizes)
    if (size.model.vocab_size != s.sizes[0].model.vocab_size)
      field_error(s.file, "sizes." + size.name, fmt::format("a vocabulary of {}", size.model.vocab_size),
                  fmt::format("{}, as {} has", s.sizes[0].model.vocab_size, s.sizes[0].name),
                  "losses per token of different tokenizers can not be compared: make one study of each");
  for (const StudyRun& run : planned) {
    if (run.kind == "pretraining" || run.arm.empty()) continue;
    const auto first = std::ranges::find_if(planned, [&](const StudyRun& r) { return r.arm == s.baseline; });
    const std::int64_t S = run.config.train.seq_length, other = first->config.train.seq_length;
    if (S != other)
      field_error(s.file, "arms." + run.arm + ".run.train.seq_length", fmt::format("{}", S),
                  fmt::format("{}, as {} has", other, s.baseline),
                  "arms see the same sequences, and attention's FLOPs depend on their length");
    if (run.kind != "arm") continue;
    const auto tokens = static_cast<double>(run.tokens);
    if (warmup_tokens(run.config) > tokens / 10)
      field_error(s.file, "train.warmup_steps",
                  fmt::format("a warm-up of {:.4g} tokens in {}, which has {:.4g}", warmup_tokens(run.config), run.name,
                              tokens),
                  "at most a tenth of the shortest budget", "shorten the warm-up, or leave that budget out");
  }
}

// A prefix's tokens, checked for the vocabulary.
TokenSet opened(const Study& s, const std::string& prefix) {
  TokenSet set = TokenSet::open(prefix, s.sizes[0].model.vocab_size);
  set.check_ids();
  return set;
}

void check_epochs(const Study& s, const StudyRun& run, const std::string& key) {
  double weights = 0;
  for (const WeightedPath& p : run.config.data.train) weights += p.weight;
  for (const WeightedPath& p : run.config.data.train) {
    const auto has = static_cast<double>(TokenSet::open(p.path).tokens());
    const double epochs = static_cast<double>(run.tokens) * p.weight / weights / has;
    if (epochs > s.most_epochs)
      field_error(s.file, key,
                  fmt::format("{} with {:.4g} tokens, which is {:.3g} epochs of {}", p.path, has, epochs, run.name),
                  fmt::format("data for at most {:g} epochs", s.most_epochs),
                  "use more text or smaller budgets, or raise data.most_epochs");
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
  }
  if (!s.tokenizer.empty())
    for (const StudySize& size : s.sizes) check_tokenizer(s.tokenizer, size.model);
  for (const StudyRun& run : planned)
    check_epochs(s, run, run.kind == "pretraining" ? "data.pretraining" : "data.continuation");
}

void check_machine(const Study& s, const std::vector<StudyRun>& planned) {
  std::map<std::string, bool> seen;
  for (const StudyRun& run : planned) {
    if (seen.contains(run.cell.size + run.arm)) continue;
    seen[run.cell.size + run.arm] = true;
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
  check_comparable(study, planned);
  check_data_sets(study, planned);
  check_machine(study, planned);
}

}  // namespace upcycle
