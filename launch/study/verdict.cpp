#include "launch/study/verdict.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "launch/study/wording.h"

namespace upcycle {
namespace {

// The comparison at one budget.
struct Point {
  double budget = 0;
  int sign = 0;  // 1: the candidate is better, -1: worse, 0: no difference
  double nats = 0, share = 0;
  std::int64_t seeds = 0;
  bool spread_known = false;  // over seeds, perhaps of other budgets
  bool holds_zero = false;    // the 95 % interval
  Json cloze;                 // null: not known
};

std::optional<Point> point_of(const Json& c) {
  if (!c["difference"].is_number() || c["says"] == "not known") return {};
  Point p;
  p.budget = c["budget"];
  p.sign = c["says"] == "better" ? 1 : c["says"] == "worse" ? -1 : 0;
  p.nats = std::abs(c["difference"].get<double>());
  p.share = std::abs(c["relative_gain"].get<double>());
  p.seeds = c["seeds"];
  p.spread_known = c["spread_known"];
  p.holds_zero = c["low"].get<double>() <= 0 && c["high"].get<double>() >= 0;
  p.cloze = c.value("cloze", Json());
  return p;
}

class Writer {
 public:
  Writer(const Study& study, const Json& report)
      : s_(study), report_(report), budgets_(budgets_of(study, study.verdict.size)) {
    for (const Json& c : report["comparisons"]) {
      if (c["arm"] != s_.candidate || c["set"] != s_.new_set || c["size"] != s_.verdict.size ||
          c["duration"] != s_.verdict.duration)
        continue;
      const auto p = point_of(c);
      if (p) (c["rates"] == "best per budget" ? best_ : points_).push_back(*p);
    }
    std::ranges::sort(points_, {}, &Point::budget);
  }

  std::string text() const {
    std::string text = subject();
    if (points_.empty())
      return text + fmt::format("nothing can be said: no budget has a finished pair of runs of {} and {}.{}",
                                s_.baseline, s_.candidate, broken());
    text += losses() + "." + cloze() + serving() + doubts();
    return text;
  }

 private:
  std::string subject() const {
    std::string text = s_.verdict.size;
    if (s_.verdict.duration > 0) text += fmt::format(", pretrained on {:g} tokens per parameter", s_.verdict.duration);
    return text + fmt::format(", held-out text \"{}\": ", s_.new_set);
  }

  // "0.2 of the pretraining budget"; `bare`: "0.2".
  std::string at(double budget, bool bare = false) const {
    if (s_.budgets_in_tokens) return two_digits(budget) + (bare ? "" : " tokens of continued pretraining");
    return fmt::format("{:g}{}", budget,
                       bare         ? ""
                       : budget < 1 ? " of the pretraining budget"
                                    : " times the pretraining budget");
  }

  static std::string amount(const Point& p) { return fmt::format("{:.3f} nats ({:.1f} %)", p.nats, 100 * p.share); }

  // "better" of whom; points of one sign, budgets one after the other.
  std::string stretch(const Point* first, const Point* last, bool to_the_end) const {
    const bool one = first == last;
    if (first->sign == 0) {
      const Point& widest = *std::max_element(first, last + 1, [](auto& a, auto& b) { return a.nats < b.nats; });
      return fmt::format(
          "{} the two do not differ by more than two standard errors ({}{:.3f} nats)",
          one ? "at " + at(first->budget) : fmt::format("from {} to {}", at(first->budget, true), at(last->budget)),
          one ? "" : "at most ", widest.nats);
    }
    const std::string& who = first->sign > 0 ? s_.candidate : s_.baseline;
    if (one) return fmt::format("at {} {} is better by {}", at(first->budget), who, amount(*first));
    return fmt::format("{} {} is better, by {} at {} and {} at {}",
                       to_the_end ? fmt::format("from {} on", at(first->budget))
                                  : fmt::format("from {} to {}", at(first->budget, true), at(last->budget)),
                       who, amount(*first), at(first->budget, true), amount(*last), at(last->budget, true));
  }

  std::string losses() const {
    std::vector<std::string> stretches;
    const Point *const end = points_.data() + points_.size(), *begin = points_.data();
    for (const Point* p = begin; p != end;) {
      const Point* next = std::find_if(p, end, [&](const Point& q) { return q.sign != p->sign; });
      if (p == begin && next == end && points_.size() > 1) return at_all(*p);
      stretches.push_back(stretch(p, next - 1, next == end));
      p = next;
    }
    std::string text;
    for (const std::string& part : stretches) text += (text.empty() ? "" : "; ") + part;
    return text + not_rising();
  }

  std::string at_all(const Point& first) const {
    const Point& last = points_.back();
    if (first.sign == 0)
      return fmt::format(
          "at no budget from {} to {} do {} and {} differ by more than two standard errors ({:.3f} nats "
          "at {})",
          at(first.budget, true), at(last.budget), s_.candidate, s_.baseline, last.nats, at(last.budget, true));
    const bool ours = first.sign > 0;
    return fmt::format("{} is better than {} at every budget, by {} at {} and {} at {}",
                       ours ? s_.candidate : s_.baseline, ours ? s_.baseline : s_.candidate, amount(first),
                       at(first.budget), amount(last), at(last.budget, true));
  }

  // Where a larger budget does worse than a smaller one there is no budget "from which on".
  std::string not_rising() const {
    for (std::size_t i = 1; i < points_.size(); ++i)
      if (points_[i].sign < points_[i - 1].sign)
        return fmt::format(". This does not go one way with the budget: {} is {} at {}, but {} at the larger {}",
                           s_.candidate, words(points_[i - 1].sign), at(points_[i - 1].budget, true),
                           words(points_[i].sign), at(points_[i].budget, true));
    return "";
  }
  static const char* words(int sign) { return sign > 0 ? "better" : sign < 0 ? "worse" : "not different"; }

  // The paper's measure, at the verdict's budget.
  std::string cloze() const {
    const auto p = std::ranges::find(points_, s_.verdict.budget, &Point::budget);
    if (p == points_.end() || !p->cloze.is_object() || p->cloze["says"] == "not known") return "";
    const double by = std::abs(p->cloze["difference"].get<double>());
    const Json &says = p->cloze["says"], &share = p->cloze["relative_gain"];
    const std::string begin = " In cloze score, chance taken off, ", at_budget = at(p->budget, budgets_.size() > 1);
    if (says == "no difference")
      return begin +
             fmt::format("the two do not differ by more than two standard errors ({:.3f}) at {}.", by, at_budget);
    return begin + fmt::format("{} is better by {:.3f}{} at {}.", says == "better" ? s_.candidate : s_.baseline, by,
                               share.is_number() ? fmt::format(" ({:.0f} %)", 100 * std::abs(share.get<double>())) : "",
                               at_budget);
  }

  std::string serving() const {
    const Json* found = nullptr;
    for (const Json& v : report_["serving"])
      if (v["size"] == s_.verdict.size && v["arm"] == s_.candidate && v["share_of_dense"].is_number()) found = &v;
    if (found == nullptr) return " What it costs to serve is not known, so neither is when it pays.";
    const std::string rate = fmt::format(
        " Serving {} reaches {} of the dense model's rate at high demand ({})", s_.candidate,
        two_digits((*found)["share_of_dense"].get<double>()),
        (*found)["source"] == "measured" ? "measured here" : "predicted for " + (*found)["machine"].get<std::string>());
    const Json *at_verdict = break_even(s_.verdict.budget), *known = at_verdict;
    // At the largest budget continued pretraining often does not reach the MoE's loss: then the largest that can tell.
    if (known == nullptr || is_unknown(*known))
      for (const double budget : budgets_)
        if (const Json* b = break_even(budget); b != nullptr && !is_unknown(*b)) known = b;
    if (known == nullptr) return rate + "; when it pays is not known, because its runs are missing.";
    std::string text = fmt::format("{}, {}", rate, (*known)["pays"].get<std::string>());
    if (budgets_.size() > 1) text += fmt::format(" (trained with {})", at((*known)["budget"]));
    if (at_verdict == nullptr) text += fmt::format("; at {} its run is missing", at(s_.verdict.budget, true));
    if (at_verdict != nullptr && known != at_verdict)
      text +=
          fmt::format("; at {} that is {}", at(s_.verdict.budget, true), (*at_verdict)["answer"].get<std::string>());
    return text + ".";
  }
  static bool is_unknown(const Json& b) { return b["answer"].get<std::string>().starts_with("not known"); }
  const Json* break_even(double budget) const {
    for (const Json& b : report_["break_even"])
      if (b["size"] == s_.verdict.size && b["duration"] == s_.verdict.duration && b["budget"] == budget &&
          b["arm"] == s_.candidate && b["set"] == s_.new_set)
        return &b;
    return nullptr;
  }

  std::string doubts() const {
    std::string text = other_rates();
    const auto verdict = std::ranges::find(points_, s_.verdict.budget, &Point::budget);
    std::vector<std::string> wide;
    for (const Point& p : points_)
      if (p.sign != 0 && p.holds_zero) wide.push_back(at(p.budget, true));
    if (std::ranges::none_of(points_, &Point::spread_known))
      text += " One seed: the spread is not known.";
    else if (verdict != points_.end() && verdict->seeds == 1)
      text += fmt::format(" One seed at {}: its spread is taken from the other budgets.", at(s_.verdict.budget));
    if (!wide.empty())
      text += fmt::format(" The 95 % interval at {}, which allows for few seeds, still holds 0.", listed(wide));
    return text + edges() + broken();
  }

  // The second sweep at the largest budget, where it tells another story.
  std::string other_rates() const {
    for (const Point& best : best_)
      for (const Point& p : points_) {
        if (p.budget != best.budget || (p.sign == best.sign && std::abs(p.nats - best.nats) < 5e-4)) continue;
        const std::string with = fmt::format(" With the rates that are best at {} itself, ", at(best.budget));
        if (best.sign == 0)
          return with + fmt::format("the two do not differ by more than two standard errors ({:.3f} nats).", best.nats);
        return with +
               fmt::format("{} is better there by {}.", best.sign > 0 ? s_.candidate : s_.baseline, amount(best));
      }
    return "";
  }

  std::string edges() const {
    std::vector<std::string> at_edge;
    for (const Json& sweep : report_["sweeps"]) {
      const bool concerns = sweep["arm"] == s_.candidate || sweep["arm"] == s_.baseline;
      if (!concerns || sweep["size"] != s_.verdict.size || sweep["interior"] == true || !sweep["best"].is_number())
        continue;
      const std::string arm = fmt::format("{} ({})", sweep["arm"].get<std::string>(), two_digits(sweep["best"]));
      if (std::ranges::find(at_edge, arm) == at_edge.end()) at_edge.push_back(arm);
    }
    if (at_edge.empty()) return "";
    return fmt::format(" The learning rate of {} is not known to be best: it lies at an end of its sweep.",
                       listed(at_edge));
  }

  // Budgets that could not be compared, with what became of their runs.
  std::string broken() const {
    std::vector<std::string> failed, missing;
    for (const Json& r : report_["runs"]) {
      if (r["kind"] != "arm" || r["result"] != true || (r["arm"] != s_.candidate && r["arm"] != s_.baseline) ||
          r["size"] != s_.verdict.size || r["duration"] != s_.verdict.duration)
        continue;
      if (r["status"] == "failed") failed.push_back(r["name"].get<std::string>());
      if (r["status"] == "missing") missing.push_back(r["name"].get<std::string>());
    }
    std::vector<std::string> not_compared;
    for (const double budget : budgets_)
      if (std::ranges::find(points_, budget, &Point::budget) == points_.end()) not_compared.push_back(at(budget, true));
    std::string text;
    if (!points_.empty() && !not_compared.empty())
      text +=
          fmt::format(" Not compared: {} {}.", not_compared.size() == 1 ? "budget" : "budgets", listed(not_compared));
    if (failed.size() > 3) failed = {failed[0], failed[1], fmt::format("{} more", failed.size() - 2)};
    if (!failed.empty()) text += fmt::format(" Failed: {}.", listed(failed));
    if (!missing.empty()) text += fmt::format(" Not done yet: {}.", counted(missing.size(), "run"));
    return text;
  }

  const Study& s_;
  const Json& report_;
  const std::vector<double> budgets_;  // of the verdict's size
  std::vector<Point> points_, best_;   // by the paper's rule; with the second sweep's rates
};

}  // namespace

std::string verdict(const Study& study, const Json& report) { return Writer(study, report).text(); }

}  // namespace upcycle
