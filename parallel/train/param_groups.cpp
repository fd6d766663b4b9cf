#include "parallel/train/param_groups.h"

#include <fmt/core.h>
#include <fnmatch.h>

#include <algorithm>
#include <limits>
#include <set>

#include "core/config/fields.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

// The number of rules: none.
std::size_t rule_of(const std::vector<ParamRule>& rules, const std::string& name) {
  const auto first = std::ranges::find_if(rules, [&](const ParamRule& r) { return matches(r.params, name); });
  return static_cast<std::size_t>(first - rules.begin());
}

// Names of all of the run's parameters, and of which parameters of all layers and experts at once: with a star.
struct Names {
  std::vector<std::string> all, shapes;
};
Names names_of(const Config& c) {
  Names names;
  const auto add = [&](const ModelConfig& model) {
    for (const ParamRow& row : make_global_table(model).rows) {
      names.all.push_back(row.name);
      const std::string shape = fmt::format(fmt::runtime(canonical_pattern(row.role)), "*", "*");
      if (std::ranges::find(names.shapes, shape) == names.shapes.end()) names.shapes.push_back(shape);
    }
  };
  add(c.model);
  if (c.upcycle.at_step >= 0) add(with_experts_of(ModelConfig{}, c.model));
  return names;
}

// Up to three names that are most like the pattern: like what it has between its stars, from a dot in the name on.
std::string nearest_names(const std::string& pattern, std::vector<std::string> names) {
  const std::size_t first = std::min(pattern.find_first_not_of("*."), pattern.size());
  const bool open = pattern.ends_with('*');
  const std::string wanted =
      pattern.substr(first, open ? pattern.find_last_not_of('*') + 1 - first : std::string::npos);
  const auto distance = [&](const std::string& name) {
    int least = std::numeric_limits<int>::max();
    for (std::size_t at = 0; at != std::string::npos; at = name.find('.', at)) {
      at += name[at] == '.' ? 1 : 0;
      least = std::min(least, edit_distance(wanted, name.substr(at, open ? wanted.size() : std::string::npos)));
    }
    return least;
  };
  std::ranges::stable_sort(names, {}, distance);
  names.resize(std::min<std::size_t>(names.size(), 3));
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

RowRate rate_of(const TrainConfig& t, const ParamRow& row) {
  RowRate rate{1, row.weight_decay ? t.weight_decay : 0,
               t.decoupled_lr >= 0 && (row.role == ParamRole::Embedding || row.role == ParamRole::Head)};
  if (const std::size_t i = rule_of(t.param_groups, row.name); i < t.param_groups.size()) {
    rate.lr_mult = t.param_groups[i].lr_mult;
    if (t.param_groups[i].weight_decay >= 0) rate.weight_decay = t.param_groups[i].weight_decay;
  }
  return rate;
}

void check_param_groups(const Config& c) {
  const std::vector<ParamRule>& rules = c.train.param_groups;
  if (rules.empty() || (c.upcycle.at_step >= 0 && !c.model.is_moe())) return;
  const Names names = names_of(c);
  std::set<std::size_t> used;
  for (const std::string& name : names.all) used.insert(rule_of(rules, name));
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (used.contains(i)) continue;
    const std::string& pattern = rules[i].params;
    const auto fail = [&](const std::string& expected, const std::string& advice) {
      field_error(c.where("train.param_groups"), "train.param_groups", quote_text(pattern), expected, advice);
    };
    if (std::ranges::any_of(names.all, [&](const std::string& name) { return matches(pattern, name); }))
      fail("a pattern that matches a parameter of no earlier group",
           "the first that matches counts: put it before them");
    fail("a pattern that matches a parameter, such as " + nearest_names(pattern, names.shapes),
         "`upcycle inspect` lists all names");
  }
}

namespace {

std::string decay_text(const std::set<double>& decays) {
  std::string text;
  for (const double decay : decays) text += fmt::format("{}{:g}", text.empty() ? "" : " and ", decay);
  return text;
}

}  // namespace

std::vector<std::string> describe_param_groups(const Config& c) {
  const TrainConfig& t = c.train;
  std::vector<std::string> lines;
  if (t.param_groups.empty() && t.decoupled_lr < 0) return lines;
  const ParamTable table = make_global_table(c.model);
  for (std::size_t i = 0; i <= t.param_groups.size(); ++i) {
    const std::string name = i < t.param_groups.size() ? quote_text(t.param_groups[i].params) : "others";
    bool any = false;
    for (const bool decoupled : {false, true}) {
      std::int64_t parameters = 0, elements = 0;
      std::set<double> decays;
      for (const ParamRow& row : table.rows) {
        const RowRate rate = rate_of(t, row);
        if (rule_of(t.param_groups, row.name) != i || rate.decoupled != decoupled) continue;
        ++parameters;
        elements += row.global_size();
        decays.insert(rate.weight_decay);
      }
      if (parameters == 0) continue;
      any = true;
      const double mult = i < t.param_groups.size() ? t.param_groups[i].lr_mult : 1;
      const double lr = decoupled ? t.decoupled_lr : t.lr,
                   least = decoupled && t.decoupled_min_lr >= 0 ? t.decoupled_min_lr : t.min_lr;
      lines.push_back(fmt::format("parameters {}{}: {} of {} elements, learning rate {:g}{}, weight decay {}", name,
                                  decoupled ? " (embedding and output layer)" : "", parameters, elements, mult * lr,
                                  t.schedule == "constant" ? "" : fmt::format(" to {:g}", mult * least),
                                  decay_text(decays)));
    }
    if (!any && i < t.param_groups.size())
      lines.push_back(fmt::format("parameters {}: none {} upcycle.at_step = {}", name,
                                  c.model.is_moe() ? "after" : "before", c.upcycle.at_step));
  }
  return lines;
}

}  // namespace upcycle
