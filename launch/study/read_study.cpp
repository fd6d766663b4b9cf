#include <algorithm>
#include <cctype>
#include <set>

#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "launch/study/json_fields.h"
#include "launch/study/study.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/model/params.h"
#include "parallel/serve/machine.h"

namespace upcycle {
namespace {

constexpr double kMostSeeds = 1000;

// Names become parts of folder names.
void check_name(const JsonFields& in, const std::string& key, const std::string& name) {
  const auto fits = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '+'; };
  if (name.empty() || name.size() > 40 || name[0] == '.' || !std::ranges::all_of(name, fits))
    in.refuse(key, quote_text(name), "a name of letters, digits, '.', '_' and '+', 40 at most");
}

// Config keys that a study sets itself.
void check_run_keys(const JsonFields& in, const Json& run, bool of_arm) {
  const auto refuse = [&](const std::string& key, const std::string& advice) {
    in.refuse("run." + key, "it", "it absent: the study sets it", advice);
  };
  for (const char* key : {"data", "init", "seed"})
    if (run.contains(key)) refuse(key, "data and seeds are the same for all arms: see `upcycle help study`");
  if (run.contains("model") && !of_arm) refuse("model", "a size has the dense model, an arm's run the expert keys");
  for (const auto& [section, key] : {std::pair{"checkpoint", "dir"},
                                     {"checkpoint", "resume"},
                                     {"train", "steps"},
                                     {"train", "tokens"},
                                     {"upcycle", "at_step"}})
    if (run.contains(section) && run[section].is_object() && run[section].contains(key))
      refuse(std::string(section) + "." + key, "budgets decide how long runs are");
}

Json run_of(JsonFields& in, bool of_arm = false) {
  Json run = in.config("run");
  check_run_keys(in, run, of_arm);
  (void)parse_config_text(run.dump(), in.file() + ": " + in.at("run"), {});  // names unknown keys and wrong values
  return run;
}

std::vector<WeightedPath> blend(JsonFields& in, const std::string& key, bool required) {
  const Json& value = in.any(key);
  if (value.is_null()) {
    if (required) in.refuse(key, "nothing", "a token set PREFIX or a blend", "make one with `upcycle tokenize`");
    return {};
  }
  const Config c = parse_config_text(Json{{"data", {{"train", value}}}}.dump(), in.file() + ": " + in.at(key), {});
  return c.data.train;
}

void read_data(JsonFields in, Study& s, bool pretrains) {
  s.tokenizer = in.text("tokenizer", "");
  s.pretraining_data = blend(in, "pretraining", pretrains);
  s.continuation_data = blend(in, "continuation", true);
  JsonFields valid = in.object("valid");
  for (const auto& [name, prefix] : valid.json().items()) {
    check_name(valid, name, name);
    s.valid.emplace_back(name, valid.required_text(name));
  }
  if (s.valid.empty()) in.refuse("valid", "nothing", "held-out token sets {NAME: PREFIX, ...}");
  const auto set_named = [&](const std::string& key, const std::string& absent) {
    std::string name = in.text(key, absent);
    if (!name.empty() && std::ranges::find(s.valid, name, &std::pair<std::string, std::string>::first) == s.valid.end())
      in.refuse(key, quote_text(name), "a name of " + in.at("valid"));
    return name;
  };
  s.new_set = set_named("new", s.valid.back().first);
  s.old_set = set_named("old", s.valid.size() > 1 ? s.valid.front().first : "");
  if (s.old_set == s.new_set) in.refuse("old", quote_text(s.old_set), "another set than data.new");
  for (const auto& [name, prefix] : s.valid)
    for (const auto* data : {&s.pretraining_data, &s.continuation_data})
      for (const WeightedPath& p : *data)
        if (p.path == prefix) in.refuse("valid." + name, quote_text(prefix), "text that no run trains on");
  s.most_epochs = in.number("most_epochs", 4, 0.01, 1e9);
  in.done();
}

StudySize read_size(JsonFields in, const std::string& name, const Study& s) {
  StudySize size;
  size.name = name;
  size.load = in.text("load", "");
  size.pretrained_tokens = in.count("pretrained_tokens", 0, 1);
  size.run = run_of(in);
  size.durations = in.ascending("tokens_per_parameter");
  size.budgets = in.ascending("budgets");
  if (!size.load.empty() && !size.durations.empty())
    in.refuse("tokens_per_parameter", "it beside load", "pretrained_tokens", "the model is pretrained already");
  const Json model = in.config("model");
  if (model.empty() == size.load.empty())
    in.refuse("model", model.empty() ? "neither model nor load" : "model and load", "one of the two",
              "load names a pretrained model, model one to pretrain here");
  if (size.load.empty() && size.pretrained_tokens > 0)
    in.refuse("pretrained_tokens", std::to_string(size.pretrained_tokens), "load beside it");
  size.model = size.load.empty()
                   ? parse_config_text(Json{{"model", model}}.dump(), s.file + ": " + in.at("model"), {}).model
                   : open_model(size.load)->model();
  const std::string where = size.load.empty() ? s.file + ": " + in.at("model") : size.load;
  check_model(size.model, where);
  if (size.model.is_moe())
    input_error("{}: found an MoE of {} experts, expected a dense model: upcycling gives it experts", where,
                size.model.num_local_experts);
  in.done();
  return size;
}

// One cell of the grid; what is not given is `absent`'s.
Cell read_cell(JsonFields& in, const Study& s, const Cell& absent) {
  Cell cell = absent;
  cell.size = in.text("size", absent.size);
  if (std::ranges::find(s.sizes, cell.size, &StudySize::name) == s.sizes.end())
    in.refuse("size", quote_text(cell.size), "a name of sizes");
  const std::vector<double> durations = durations_of(s, cell.size), budgets = budgets_of(s, cell.size);
  cell.duration = in.number("duration", cell.size == absent.size ? absent.duration : durations.back(), 0, 1e18);
  if (std::ranges::find(durations, cell.duration) == durations.end())
    in.refuse("duration", fmt::format("{:g}", cell.duration), "a duration of the size");
  cell.budget = in.number("budget", absent.budget, 0, 1e18);
  if (std::ranges::find(budgets, cell.budget) == budgets.end())
    in.refuse("budget", fmt::format("{:g}", cell.budget), "one of the size's budgets");
  return cell;
}

// A list for all sizes, or {SIZE: list, ...}.
void read_rates(JsonFields& in, StudyArm& arm, const Study& s) {
  const auto add = [&](JsonFields& from, const std::string& key, const std::string& size) {
    const std::vector<double> rates = from.ascending(key);
    if (rates.size() == 2)
      from.refuse(key, "2 rates", "one, which is taken as given, or at least 3, which are swept",
                  "two can not show that the best one is not at an end");
    if (!rates.empty()) arm.learning_rates[size] = rates;
  };
  if (!in.any("learning_rates").is_object()) return add(in, "learning_rates", "");
  JsonFields sizes = in.object("learning_rates");
  for (const StudySize& size : s.sizes) add(sizes, size.name, size.name);
  sizes.done();
  for (const StudySize& size : s.sizes)
    if (arm.rates(size.name).empty()) sizes.refuse(size.name, "nothing", "rates of each size");
}

StudyArm read_arm(JsonFields in, const std::string& name, const Study& s) {
  StudyArm arm;
  arm.name = name;
  const std::string from = in.one_of("from", {"dense", "upcycle", "random"});
  arm.from = from == "dense" ? StartsFrom::Dense : from == "upcycle" ? StartsFrom::Upcycle : StartsFrom::Random;
  arm.total_budget = in.one_of("budget", {"continuation", "total"}) == "total";
  if (in.has("only")) {
    JsonFields only = in.object("only");
    arm.only = read_cell(only, s, s.verdict);
    arm.only_seeds = only.count("seeds", s.seeds, 1, kMostSeeds);
    only.done();
  }
  read_rates(in, arm, s);
  arm.lr_of = in.text("learning_rate_of", "");
  arm.run = run_of(in, true);
  if (arm.total_budget && arm.from != StartsFrom::Random)
    in.refuse("budget", "total", "continuation, unless from is random", "others start from the dense model");
  if (arm.total_budget)
    for (const StudySize& size : s.sizes)
      if (!size.load.empty() && (!arm.only || arm.only->size == size.name))
        in.refuse("budget", "total beside sizes." + size.name + ".load", "continuation",
                  "nothing is pretrained here: no MoE can be trained as long as that model was");
  if (arm.run.contains("model") && arm.run["model"].is_object())
    for (const auto& [key, value] : arm.run["model"].items())
      if (const Field* field = find_field("model." + key); field == nullptr || !field->of_experts)
        in.refuse("run.model." + key, "it", "only keys of the experts", "the rest is the dense model's, in sizes");
  if (arm.learning_rates.empty() == arm.lr_of.empty())
    in.refuse(
        "learning_rates",
        arm.lr_of.empty() ? "neither learning_rates nor learning_rate_of" : "both learning_rates and learning_rate_of",
        "one of the two", "e.g. \"learning_rates\": [5e-4, 1e-3, 2e-3]");
  const bool moe = arm.run.contains("model") && arm.run["model"].contains("num_local_experts");
  if (moe != (arm.from != StartsFrom::Dense))
    in.refuse("run.model.num_local_experts", moe ? "it" : "nothing",
              moe ? "it absent where from is dense" : "the number of experts");
  if (arm.run.contains("train") && arm.run["train"].contains("lr"))
    in.refuse("run.train.lr", "it", "it absent", "give it as learning_rates");
  in.done();
  return arm;
}

void read_arms(JsonFields in, JsonFields& top, Study& s) {
  for (const auto& [name, value] : in.json().items()) {
    check_name(in, name, name);
    s.arms.push_back(read_arm(in.object(name), name, s));
  }
  const auto named = [&](const std::string& name) { return std::ranges::find(s.arms, name, &StudyArm::name); };
  for (const StudyArm& arm : s.arms) {
    if (arm.lr_of.empty()) continue;
    const auto other = named(arm.lr_of);
    if (other == s.arms.end() || other->learning_rates.empty())
      in.refuse(arm.name + ".learning_rate_of", quote_text(arm.lr_of), "an arm with learning_rates");
  }
  const auto first = [&](StartsFrom from) {
    const auto it = std::ranges::find_if(s.arms, [&](const StudyArm& a) { return a.from == from && !a.only; });
    return it == s.arms.end() ? std::string{} : it->name;
  };
  s.baseline = top.text("baseline", first(StartsFrom::Dense));
  s.candidate = top.text("candidate", first(StartsFrom::Upcycle));
  for (const auto& [key, name] : {std::pair{"baseline", s.baseline}, {"candidate", s.candidate}})
    if (named(name) == s.arms.end() || named(name)->only)
      top.refuse(key, name.empty() ? "no such arm" : quote_text(name), "an arm of all cells",
                 "the verdict compares continued pretraining (from dense) with an upcycled arm (from upcycle)");
  // The best of more rates is better by chance: each arm gets as many.
  for (const StudySize& size : s.sizes) {
    const std::size_t rates = s.arm(s.baseline).rates(size.name).size();
    for (const StudyArm& arm : s.arms)
      if (const std::size_t own = arm.rates(size.name).size(); arm.lr_of.empty() && own != rates)
        in.refuse(arm.name + ".learning_rates", fmt::format("{} rates", own),
                  fmt::format("{}, as {} has", rates, s.baseline), "an arm with more tries would be favoured");
  }
}

void read_verdict(JsonFields in, Study& s) {
  const std::string& size = s.sizes.back().name;
  s.verdict = read_cell(in, s, {size, durations_of(s, size).back(), budgets_of(s, size).back()});
  s.verdict_seeds = in.count("seeds", s.seeds, 1, kMostSeeds);
  in.done();
}

void read_continuation(JsonFields in, Study& s) {
  const std::vector<double> shares = in.ascending("budgets"), tokens = in.ascending("tokens");
  const bool own = std::ranges::all_of(s.sizes, [](const StudySize& z) { return !z.budgets.empty(); });
  if (shares.empty() == tokens.empty() && (!own || !shares.empty()))
    in.refuse("budgets", shares.empty() ? "neither budgets nor tokens" : "budgets and tokens", "one of the two",
              "budgets are shares of the pretraining's FLOPs, tokens those of the baseline");
  s.budgets_in_tokens = !tokens.empty();
  s.budgets = s.budgets_in_tokens ? tokens : shares;
  for (const StudySize& size : s.sizes)
    if (!s.budgets_in_tokens && !size.load.empty() && size.pretrained_tokens == 0)
      field_error(s.file, "sizes." + size.name + ".pretrained_tokens", "nothing",
                  "the tokens that it was pretrained on, of which budgets are shares",
                  "or give continuation.tokens instead of continuation.budgets");
  s.sweep_budget = in.number("sweep_budget", 0, 0, 1e18);
  const auto has = [&](const StudySize& z) {
    const std::vector<double> all = budgets_of(s, z.name);
    return std::ranges::find(all, s.sweep_budget) != all.end();
  };
  if (s.sweep_budget > 0 && std::ranges::none_of(s.sizes, has))
    in.refuse("sweep_budget", fmt::format("{:g}", s.sweep_budget), "one of the budgets");
  s.most_warmup = in.number("most_warmup", 0.1, 0, 1);
  s.trunk = in.flag("trunk", false);
  s.continuation_run = run_of(in);
  in.done();
}

void read_rest(JsonFields& top, Study& s) {
  JsonFields cloze = top.object("cloze");
  s.cloze.items = cloze.count("items", 1000, 0);
  s.cloze.candidates = cloze.count("candidates", 4, 2);
  s.cloze.context = cloze.count("context", 64, 1);
  s.cloze.length = cloze.count("length", 16, 1);
  cloze.done();
  if (s.cloze.items != 0 && s.cloze.items < 1000)
    cloze.refuse("items", std::to_string(s.cloze.items), "at least 1000, or 0 for none",
                 "fewer can not tell a gain from chance");
  JsonFields serving = top.object("serving");
  s.serving.measure = serving.flag("measure", false);
  s.serving.machine = serving.text("machine", "");
  s.serving.input_len = serving.count("input_len", 0, 1);
  s.serving.output_len = serving.count("output_len", 0, 1);
  s.serving.training_mfu = serving.number("training_mfu", 0, 0.001, 1);
  serving.done();
  if (s.serving.measure || !s.serving.machine.empty())
    for (const StudySize& size : s.sizes)
      if (s.serving.input_len + s.serving.output_len > size.model.max_position_embeddings)
        serving.refuse(
            "input_len", fmt::format("{} and output_len {}", s.serving.input_len, s.serving.output_len),
            fmt::format("together at most the {} positions of {}", size.model.max_position_embeddings, size.name));
  if (s.serving.measure && !s.serving.machine.empty())
    serving.refuse("machine", quote_text(s.serving.machine), "it absent beside measure = true",
                   "costs of two machines do not mix");
  if (!s.serving.machine.empty() && s.serving.training_mfu == 0)
    serving.refuse("training_mfu", "nothing",
                   "the share of the machine's product rate that training reaches there, e.g. 0.4",
                   "break-even compares training and serving on one machine");
  if (!s.serving.machine.empty()) (void)read_machine(s.serving.machine);
  JsonFields launch = top.object("launch");
  s.launch.ranks = launch.count("ranks", 1, 1, 1 << 20);
  s.launch.at_once = launch.count("at_once", 1, 1, 1 << 10);
  s.launch.threads = launch.count("threads", 0, 1, 1 << 10);
  s.launch.command = launch.texts("command");
  launch.done();
}

// "--a.b=value" into the file's JSON; the value is JSON where it is any, else text.
void apply(Json& study, const std::string& argument) {
  const std::size_t begin = argument.starts_with("--") ? 2 : 0, equals = argument.find('=');
  const std::string key = argument.substr(begin, equals - begin), text = argument.substr(equals + 1);
  Json* at = &study;
  for (std::size_t from = 0; from <= key.size();) {
    const std::size_t dot = std::min(key.find('.', from), key.size());
    if (at->is_null()) *at = Json::object();
    if (!at->is_object()) field_error("command line", key, shown(*at), "an object to set a key of");
    at = &(*at)[key.substr(from, dot - from)];
    from = dot + 1;
  }
  *at = Json::accept(text) ? Json::parse(text) : Json(text);
}

}  // namespace

Study read_study(const std::string& file, const std::vector<std::string>& overrides) {
  return parse_study(read_config_file(file), file, overrides);
}

Study parse_study(const std::string& text, const std::string& file, const std::vector<std::string>& overrides) {
  (void)parse_strict_json(text, file);  // names what is wrong; the order of sizes and arms is kept below
  Json json = Json::parse(text);
  for (const std::string& argument : overrides) apply(json, argument);
  Study s;
  s.file = file;
  JsonFields top(json, file, "");
  s.name = top.required_text("name");
  check_name(top, "name", s.name);
  s.output = top.text("output", "runs/" + s.name);
  s.flops = top.one_of("flops", {"causal", "paper"}) == "causal" ? FlopsCount::Causal : FlopsCount::Paper;
  const std::string match = top.one_of("match", {"flops", "tokens", "wall_time"});
  s.match = match == "flops" ? Match::Flops : match == "tokens" ? Match::Tokens : Match::WallTime;
  s.run = run_of(top);
  JsonFields sizes = top.object("sizes");
  for (const auto& [name, value] : sizes.json().items()) {
    check_name(sizes, name, name);
    s.sizes.push_back(read_size(sizes.object(name), name, s));
  }
  if (s.sizes.empty()) top.refuse("sizes", "none", "at least one dense model");
  JsonFields pretraining = top.object("pretraining");
  s.durations = pretraining.ascending("tokens_per_parameter");
  s.pretraining_run = run_of(pretraining);
  pretraining.done();
  const bool pretrains = std::ranges::any_of(s.sizes, [](const StudySize& z) { return z.load.empty(); });
  const auto lacks = [](const StudySize& z) { return z.load.empty() && z.durations.empty(); };
  if (s.durations.empty() && std::ranges::any_of(s.sizes, lacks))
    pretraining.refuse("tokens_per_parameter", "nothing", "a list such as [20, 60]");
  read_data(top.object("data"), s, pretrains);
  read_continuation(top.object("continuation"), s);
  s.seeds = top.count("seeds", 1, 1, kMostSeeds);
  read_verdict(top.object("verdict"), s);
  read_arms(top.object("arms"), top, s);
  read_rest(top, s);
  top.done();
  return s;
}

bool is_study(const std::string& file) {
  const nlohmann::json json = nlohmann::json::parse(read_config_file(file), nullptr, false);
  return json.is_object() && json.contains("arms") && json.contains("sizes");
}

}  // namespace upcycle
