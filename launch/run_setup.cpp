#include "launch/run_setup.h"

#include <filesystem>

#include "core/config/check.h"
#include "core/config/describe.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "core/log.h"
#include "data/documents.h"
#include "data/tokenizer.h"
#include "launch/backend.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/publish.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/verify.h"
#include "parallel/comm/agree.h"
#include "parallel/train/optimizer.h"
#include "parallel/train/param_groups.h"
#include "parallel/upcycle/rules.h"

namespace upcycle {
namespace {

// Every model key that the user gave must equal the source's; expert keys may differ if upcycling is to set them.
void check_inherited(const Config& given, const ModelConfig& source, const std::string& from, bool experts_may_differ) {
  Config a = given, b = given;
  a.model = spelled_out(given.model);
  b.model = spelled_out(source);
  for (const std::string& key : given.given) {
    const Field* field = find_field(key);
    if (field == nullptr || !key.starts_with("model.") || (experts_may_differ && field->of_experts)) continue;
    const std::string mine = value_text(a, *field), theirs = value_text(b, *field);
    if (mine != theirs)
      field_error(given.where(key), key, mine, theirs + ", as " + from + " has it",
                  "leave the key out: the model is inherited");
  }
}

// Normalizes a folder's path: "dense" and "./dense/" are the same init.
std::string folder_text(const std::string& dir) {
  const std::string text = std::filesystem::path(dir).lexically_normal().string();
  return text.size() > 1 && text.back() == '/' ? text.substr(0, text.size() - 1) : text;
}

std::string init_text(const Config& c) {
  std::string text = !c.init.load.empty()      ? "load " + folder_text(c.init.load)
                     : !c.init.upcycle.empty() ? "upcycle " + folder_text(c.init.upcycle)
                                               : fmt::format("random seed {}", c.seed);
  if (c.upcycle.at_step >= 0) text += fmt::format(", upcycled at step {}", c.upcycle.at_step);
  return text;
}

Config saved_config(const Checkpoint& checkpoint) {
  return parse_config_text(checkpoint.info().config, checkpoint.directory() + "/manifest.json", {});
}

// The seed and upcycle keys determine the experts, so they must not change on resuming.
void check_same_upcycling(const Config& now, const Config& before, const std::string& from) {
  if (now.init.upcycle.empty() && now.upcycle.at_step < 0) return;
  for (const Field& field : fields()) {
    if (field.key != "seed" && !field.key.starts_with("upcycle.")) continue;
    const std::string mine = value_text(now, field), theirs = value_text(before, field);
    if (mine != theirs)
      field_error(now.where(field.key), field.key, mine, theirs + ", as the run in " + from + " started",
                  "choose another checkpoint.dir for another run");
  }
}

// The position in the data is a number of sequences. With another length, and so another shuffled order, some text
// would be skipped and some repeated.
void check_same_sequences(const Config& now, const Config& before, const std::string& from) {
  if (now.train.seq_length != before.train.seq_length)
    field_error(
        now.where("train.seq_length"), "train.seq_length", fmt::format("{}", now.train.seq_length),
        fmt::format("{}, as the run in {} has it: which text it has seen can not be told in sequences of another "
                    "length",
                    before.train.seq_length, from),
        "start a new run from it with init.load and another checkpoint.dir");
}

void print_changed_keys(const Config& now, const Config& before) {
  for (const Field& field : fields()) {
    if (field.key.starts_with("model.") || field.key.starts_with("init.")) continue;  // already checked
    const std::string old_value = value_text(before, field), new_value = value_text(now, field);
    if (old_value != new_value) log_info("{}: {} -> {}", field.key, old_value, new_value);
  }
}

// The model with which a fresh run starts, and the one after upcycle.at_step.
void inherit_model(RunSetup& run, const std::string& name) {
  Config& c = run.config;
  const bool live = c.upcycle.at_step >= 0;
  if (!c.init.upcycle.empty()) {
    if (live)
      input_error(
          "{}: init.upcycle and upcycle.at_step were both given; expected one: at_step converts a run that starts "
          "from init.load or random weights",
          name);
    check_inherited(c, run.source->model(), c.init.upcycle, true);
    c.model = upcycled_model(run.source->model(), c.model, c.upcycle, name);
    return;
  }
  ModelConfig dense = c.model;
  if (run.source != nullptr) {
    check_inherited(c, run.source->model(), c.init.load, live);
    dense = run.source->model();
  } else if (live) {
    dense = with_experts_of(ModelConfig{}, c.model);
  }
  if (live) run.live_moe = upcycled_model(dense, c.model, c.upcycle, name);
  c.model = dense;
  check_model(c.model, name);
}

// A resumed run's model is the checkpoint's: dense before upcycle.at_step, MoE after it.
void resume_model(RunSetup& run, const std::string& name) {
  Config& c = run.config;
  const CheckpointInfo& info = run.checkpoint->info();
  if (info.weights_alone)
    input_error(
        "{}: {} holds weights alone (checkpoint.model_every), expected a step with its optimizer's state; start a new "
        "run from it with init.load and another checkpoint.dir",
        name, run.checkpoint->directory());
  if (info.init != run.init)
    input_error(
        "{}: the run in {} started from '{}', this config says '{}'; choose another checkpoint.dir for another run",
        name, c.checkpoint.dir, info.init, run.init);
  const bool live = c.upcycle.at_step >= 0;
  const Config saved = saved_config(*run.checkpoint);
  check_same_upcycling(c, saved, c.checkpoint.dir);
  check_same_sequences(c, saved, c.checkpoint.dir);
  // Going on without moments is plain descent; another rule would take the one's moments for its own.
  if (c.train.moments() > 0 && c.train.optimizer != saved.train.optimizer && run.checkpoint->moments() > 0)
    field_error(c.where("train.optimizer"), "train.optimizer", c.train.optimizer,
                fmt::format("{}, whose moments the run in {} holds, or sgd, which has none", saved.train.optimizer,
                            c.checkpoint.dir),
                "start a new run from it with init.load and another checkpoint.dir");
  if (run.checkpoint->moments() < c.train.moments())
    input_error(
        "{}: the run in {} holds {} of the {} moments that train.optimizer = {} keeps, so it can not resume it; start "
        "a "
        "new run with init.load",
        name, c.checkpoint.dir, run.checkpoint->moments(), c.train.moments(), c.train.optimizer);
  check_inherited(c, info.model, run.checkpoint->directory(), live && !info.model.is_moe());
  if (live && !info.model.is_moe()) run.live_moe = upcycled_model(info.model, c.model, c.upcycle, name);
  c.model = info.model;
}

// The token that ends a document, where a key of `data` asks for it.
void resolve_eod(Config& c) {
  DataConfig& d = c.data;
  if (!document_rules(d).any()) return;
  if (d.eod_token_id < 0) d.eod_token_id = c.model.eos_token_id;
  if (d.eod_token_id < 0 && !d.tokenizer.empty()) d.eod_token_id = open_tokenizer(d.tokenizer)->eod_id();
  if (d.eod_token_id < 0)
    field_error(c.where("data.eod_token_id"), "data.eod_token_id", "none, in the model and the tokenizer neither",
                "the token that ends a document",
                "data.reset_attention_mask, data.reset_position_ids and data.eod_mask_loss find documents by it");
  if (d.eod_token_id >= c.model.vocab_size)
    field_error(c.where("data.eod_token_id"), "data.eod_token_id", fmt::format("{}", d.eod_token_id),
                fmt::format("less than model.vocab_size = {}", c.model.vocab_size), "it is the model's token");
}

// Finds at the start the errors that would otherwise occur at upcycle.at_step.
void check_live(const RunSetup& run) {
  if (run.live_moe) check_freeze(*run.live_moe, run.config.train.freeze);
}

// Of all that the run trains, before its layout is searched.
void check_groups(const RunSetup& run) {
  Config c = run.config;
  if (run.live_moe) c.model = *run.live_moe;
  check_param_groups(c);
}

// The weights of the chosen experts sum to 1, so a single one is always 1: the loss does not depend on the router.
void warn_of_an_idle_router(const ModelConfig& m) {
  if (m.num_local_experts < 2 || m.num_experts_per_tok != 1 || m.router_softmax != "topk_then_softmax") return;
  log_warn(
      "model.num_experts_per_tok = 1 under model.router_softmax = topk_then_softmax: an expert's weight is always 1, "
      "so "
      "the router learns nothing from the loss; use softmax_then_topk");
}

}  // namespace

PlannedRun planned_run(const RunSetup& run) {
  PlannedRun planned{run.config, {}, workspace_of(run.config)};
  if (run.live_moe) {
    planned.dense = run.config.model;
    planned.config.model = *run.live_moe;
  } else if (!run.config.init.upcycle.empty() && run.source != nullptr) {
    planned.dense = run.source->model();
  }
  return planned;
}

std::string config_text(const RunSetup& run) {
  Config c = run.config;
  if (run.live_moe) c.model = *run.live_moe;
  return to_json(c);
}

namespace {

// For a plan, which reads no more than a manifest and changes nothing: where the newest step's is damaged, the newest
// one that is whole. Training from there sets the damaged ones aside.
std::unique_ptr<Checkpoint> open_for_plan(const std::string& dir, Communicator& world) {
  try {
    return open_checkpoint(dir, false, &world);
  } catch (const InputError&) {
    const std::vector<std::string> steps = published_steps(dir);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      try {
        return open_checkpoint(dir + "/" + *step, false, &world);
      } catch (const InputError&) {
      }
    }
    throw;
  }
}

}  // namespace

RunSetup set_up_run(Config config, const std::string& name, Communicator& world, Purpose purpose) {
  const bool verify = purpose == Purpose::Train;
  RunSetup run;
  run.config = std::move(config);
  Config& c = run.config;
  const std::string& dir = c.checkpoint.dir;
  bool used = false;
  agree_or_throw(world, [&] {
    if (!c.init.load.empty() && !c.init.upcycle.empty())
      input_error("{}: init.load and init.upcycle were both given; expected at most one", name);
    used = !dir.empty() && (verify ? holds_run(dir) : is_checkpoint(dir));
    if (used && !c.checkpoint.resume)
      input_error("{}: checkpoint.dir {} already holds a run and checkpoint.resume is false; choose another folder",
                  name, dir);
  });
  // All ranks open what rank 0 finds: ranks that took different paths would wait for each other.
  used = world.max_of(used) > 0;
  run.init = init_text(c);
  if (used && verify && world.max_of(std::filesystem::exists(dir + "/" + manifest_name)) == 0) {
    const std::string folder = newest_intact_step(dir, world);  // hashes the files
    used = !folder.empty();
    if (used) run.checkpoint = open_checkpoint(folder, false, &world);
  } else if (used) {
    run.checkpoint = verify ? open_checkpoint(dir, true, &world) : open_for_plan(dir, world);
  }
  if (used) {
    // goes on from run.checkpoint
  } else if (const std::string& from = c.init.load.empty() ? c.init.upcycle : c.init.load; !from.empty()) {
    run.source = verify || !is_checkpoint(from) ? open_model(from, &world) : open_checkpoint(from, false, &world, true);
  }
  agree_or_throw(world, [&] {
    if (used)
      resume_model(run, name);
    else
      inherit_model(run, name);
    resolve_eod(c);
    check_train(c, used ? Trained{run.checkpoint->info().step, run.checkpoint->info().tokens} : Trained{});
    check_groups(run);
    if (purpose == Purpose::Train) check_live(run);
  });
  if (used && purpose == Purpose::Train) print_changed_keys(c, saved_config(*run.checkpoint));
  if (world.rank() == 0) warn_of_an_idle_router(run.live_moe ? *run.live_moe : c.model);
  return run;
}

}  // namespace upcycle
