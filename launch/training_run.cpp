#include "launch/training_run.h"

#include <algorithm>

#include "core/config/check.h"
#include "core/error.h"
#include "core/flight_record.h"
#include "core/log.h"
#include "core/plain_text.h"
#include "data/files.h"
#include "launch/metrics.h"
#include "launch/model_files.h"
#include "launch/predicted_bytes.h"
#include "parallel/checkpoint/data_position.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/train/evaluate.h"
#include "parallel/train/param_groups.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"

namespace upcycle {
namespace {

// Real tokens on which to compare the model before and after upcycling: at most 256 of the run's first sequence.
std::vector<std::int32_t> probe_tokens(TrainingRun& run) {
  const std::int64_t S = run.setup.config.train.seq_length;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(S)), targets(tokens.size());
  run.sampler->fill(0, tokens.data(), targets.data());
  tokens.resize(static_cast<std::size_t>(probe_length(S, run.mesh.layout.tp)));
  return tokens;
}

// Windows of a set that an evaluation takes; 0: all.
std::int64_t windows_evaluated(const Config& c) { return c.train.eval_steps * c.train.global_batch_size; }

// For the loss per byte, which is left out with a warning where the tokenizer can not be read here.
void count_valid_bytes(TrainingRun& run) {
  const Config& c = run.setup.config;
  const std::string from = run.setup.checkpoint != nullptr ? run.setup.checkpoint->directory()
                           : !c.init.load.empty()          ? c.init.load
                                                           : c.init.upcycle;
  if (run.valid.empty() || (c.data.tokenizer.empty() && from.empty())) return;
  try {
    const auto tokenizer = find_tokenizer(c.data.tokenizer, from, c.model);
    if (tokenizer == nullptr) return;
    const std::int64_t S = c.train.seq_length, most = windows_evaluated(c);
    for (const auto& [name, set] : run.valid) {
      const EvalWindows windows(set, S, document_rules(c.data));
      const std::int64_t end = most > 0 ? std::min(set.tokens(), most * S + 1) : set.tokens();
      run.valid_bytes[name] = predicted_bytes(set, windows, *tokenizer, {0, end})[0];
    }
  } catch (const InputError& e) {
    log_warn("no loss per byte: {}", e.what());
  }
}

// For the card of a model that is exported later.
void keep_report(const TrainingRun& run, const UpcycleReport& report) {
  const std::string& dir = run.setup.config.checkpoint.dir;
  if (dir.empty() || run.mesh.world->rank() != 0) return;
  write_for_readers(dir + "/upcycled.json",
                    fmt::format("{{\"step\": {}, \"logit_change\": {}, \"promises_exact\": {}}}\n", run.trainer.step,
                                report.change, report.exact));
}

}  // namespace

void write_for_readers(const std::string& path, const std::string& text) {
  try {
    write_text_atomic(path, text);
  } catch (const std::exception& e) {
    log_warn("{}; training goes on without this file", plain_text(e.what()));
  }
}

void open_data(TrainingRun& run) {
  const Config& c = run.setup.config;
  check_data(c);
  if (!c.data.tokenizer.empty()) check_tokenizer(c.data.tokenizer, c.model);
  const DocumentRules rules = document_rules(c.data);
  const DataSplit split = parse_split(c.data.split, c.where("data.split"));
  run.sampler =
      std::make_unique<Sampler>(c.data.train, c.model.vocab_size, c.train.seq_length, c.data.seed, rules, split);
  for (const auto& [name, prefix] : c.data.valid) {
    run.valid.emplace(name, TokenSet::open(prefix, c.model.vocab_size));
  }
  if (split.valid > 0) {
    for (const WeightedPath& part : c.data.train) {
      TokenSet set = TokenSet::open(part.path, c.model.vocab_size);
      keep_part(set, split, SplitPart::Valid);
      run.valid.emplace(c.data.train.size() == 1 ? "valid" : part.path, std::move(set));
    }
  }
  for (const auto& [name, set] : run.valid) (void)EvalWindows(set, c.train.seq_length);  // throws for one too short
  // Ids are checked whenever they are read; this refuses another tokenizer's set before anything is written.
  if (run.mesh.world->rank() != 0) return;
  const auto check = [&](const TokenSet& set) {
    set.check_ids();
    check_document_ends(set, rules);
  };
  for (const TokenSet& set : run.sampler->sets()) check(set);
  for (const auto& [name, set] : run.valid) check(set);
  count_valid_bytes(run);
}

SequenceSource sequences(TrainingRun& run) {
  const std::int64_t skipped = run.setup.config.train.skip_samples;
  return [&run, skipped](std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    run.sampler->fill(index + skipped, tokens.data(), targets.data());
  };
}

void make_snapshots(TrainingRun& run) {
  run.next_snapshot = 0;
  if (run.writer == nullptr) return;
  for (std::int64_t i = 0; i < run.setup.config.checkpoint.max_pending; ++i)
    run.snapshots.push_back(make_snapshot(run.trainer));
}

namespace {
// Steps that were skipped after the newest save have moved the data on.
void pass_over_skipped(TrainingRun& run) {
  Trainer& t = run.trainer;
  const std::string& dir = run.setup.config.checkpoint.dir;
  std::optional<DataPosition> read;
  if (run.mesh.rank == 0) read = read_data_position(dir, step_folder_name(t.step));
  const auto of_rank_0 = [&](std::int64_t number) {
    return static_cast<std::int64_t>(run.mesh.world->max_of(static_cast<double>(number)));
  };
  const DataPosition at = read.value_or(DataPosition{});
  const std::int64_t samples = of_rank_0(at.consumed_samples), skipped = of_rank_0(at.skipped_steps),
                     in_a_row = of_rank_0(at.skipped_in_a_row);
  if (samples <= t.consumed_samples) return;
  log_info("the data go on after sequence {}, behind {} steps that were skipped after step {}", samples,
           skipped - t.skips.total, t.step);
  t.consumed_samples = samples, t.skips.total = skipped, t.skips.in_a_row = in_a_row;
}
}  // namespace

void start_weights(TrainingRun& run) {
  Trainer& t = run.trainer;
  RunSetup& setup = run.setup;
  if (setup.checkpoint != nullptr) {
    restore_trainer(t, *setup.checkpoint);
    log_info("resumed {} at step {}", setup.checkpoint->directory(), t.step);
    pass_over_skipped(run);
    run.resumed = true;
  } else if (!setup.config.init.upcycle.empty()) {
    const UpcycleReport report = upcycle_from_checkpoint(t, *setup.source, probe_tokens(run));
    log_info("upcycled {} to {} experts: {}", setup.config.init.upcycle, setup.config.model.num_local_experts,
             report.text());
    keep_report(run, report);
  } else if (setup.source != nullptr) {
    load_trainer_weights(t, *setup.source);
    log_info("loaded {}", setup.config.init.load);
  } else {
    initialize_trainer(t, static_cast<std::uint64_t>(setup.config.seed));
  }
  // Open, they could not be removed by the run that they are of, which may be this one.
  setup.checkpoint.reset();
  setup.source.reset();
}

void upcycle_in_place(TrainingRun& run) {
  Config config = run.setup.config;
  config.model = *run.setup.live_moe;
  run.snapshots.clear();
  LiveUpcycle live = upcycle_live(std::move(run.trainer), config, probe_tokens(run));
  run.trainer = std::move(live.trainer);
  run.setup.config = config;
  run.setup.live_moe.reset();
  make_snapshots(run);
  log_info("step {}: upcycled in place to {} experts: {}", run.trainer.step, config.model.num_local_experts,
           live.report.text());
  for (const std::string& line : describe_param_groups(config)) log_info("{}", line);
  keep_report(run, live.report);
}

void evaluate_all(TrainingRun& run, Metrics& metrics) {
  const InPhase phase(Phase::Evaluating);
  const Config& c = run.setup.config;
  for (const auto& [name, set] : run.valid) {
    const EvalWindows windows(set, c.train.seq_length, document_rules(c.data));
    const EvalResult r = evaluate(*run.trainer.model, run.trainer.batch, windows, windows_evaluated(c));
    const auto bytes = run.valid_bytes.find(name);
    metrics.eval(run.trainer, name, r.loss, r.tokens, bytes == run.valid_bytes.end() ? 0 : bytes->second);
  }
}

}  // namespace upcycle
