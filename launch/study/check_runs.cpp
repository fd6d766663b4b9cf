#include <algorithm>
#include <set>

#include "core/config/fields.h"
#include "launch/study/study_plan.h"

namespace upcycle {
namespace {

double warmup_tokens(const Config& c) {
  const std::int64_t step = c.train.global_batch_size * c.train.seq_length;
  return static_cast<double>(std::max(c.train.warmup_tokens, c.train.warmup_steps * step));  // one of the two
}

// A key of `run` that must be as in `other`, for the reason given.
void check_same(const Study& s, const StudyRun& run, const StudyRun& other, const char* key,
                const std::string& reason) {
  const Field& field = *find_field(key);
  const std::string mine = value_text(run.config, field), theirs = value_text(other.config, field);
  if (mine == theirs) return;
  field_error(s.file, (run.kind == "pretraining" ? "pretraining" : "arms." + run.arm) + ".run." + key, mine,
              fmt::format("{}, as {} has", theirs, other.arm), reason);
}

}  // namespace

void check_runs(const Study& s, const std::vector<StudyRun>& planned) {
  for (const StudySize& size : s.sizes)
    if (size.model.vocab_size != s.sizes[0].model.vocab_size)
      field_error(s.file, "sizes." + size.name, fmt::format("a vocabulary of {}", size.model.vocab_size),
                  fmt::format("{}, as {} has", s.sizes[0].model.vocab_size, s.sizes[0].name),
                  "losses per token of different tokenizers can not be compared: make one study of each");
  std::set<std::string> names;
  for (const StudyRun& run : planned) {
    if (!names.insert(run.name).second)
      field_error(s.file, "name", fmt::format("two runs named {}", run.name), "names that differ",
                  "rates, budgets and durations that agree in six digits are one");
    if (!run.config.train.rampup_batch_size.empty())
      field_error(s.file, run.name + ": train.rampup_batch_size", "it", "it absent",
                  "a study counts its budgets in steps of one batch");
    const auto first = std::ranges::find_if(planned, [&](const StudyRun& r) {
      return r.arm == s.baseline && r.kind == run.kind && r.cell.size == run.cell.size;
    });
    const auto any = std::ranges::find(planned, s.baseline, &StudyRun::arm);
    check_same(s, run, *any, "train.seq_length",
               "arms see the same sequences, and attention's FLOPs depend on their length");
    if (run.kind != "trunk" && run.config.train.schedule == "constant")
      field_error(s.file, run.name + ": train.schedule", "constant", "cosine or wsd",
                  "what is compared, and what it starts from, ends with a low learning rate");
    if (run.kind != "arm") continue;
    check_same(s, run, *first, "train.schedule", "arms differ in what they are, not in how they are trained");
    check_same(s, run, *first, "train.global_batch_size", "arms take the same sequences in the same steps");
    check_same(s, run, *first, "dtype", "its rounding would be in the difference");
    check_same(s, run, *first, "device", "its speed and rounding would be in the difference");
    const auto tokens = static_cast<double>(run.tokens);
    if (warmup_tokens(run.config) > s.most_warmup * tokens)
      field_error(s.file, run.config.train.warmup_tokens > 0 ? "train.warmup_tokens" : "train.warmup_steps",
                  fmt::format("a warm-up of {:.4g} tokens in {}, which has {:.4g}", warmup_tokens(run.config), run.name,
                              tokens),
                  fmt::format("at most {:g} of the shortest budget", s.most_warmup),
                  "shorten the warm-up, leave that budget out, or raise continuation.most_warmup");
  }
}

}  // namespace upcycle
