#include "launch/study/measures.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numbers>

#include "core/error.h"

namespace upcycle {
namespace {

struct Sums {
  double loss = 0, tokens = 0, bytes = 0;
};
Sums sums_of(const SetMeasures& set, Half half) {
  Sums s;
  for (std::size_t d = 0; d < set.documents.size(); ++d) {
    if (!in_half(d, set.documents.size(), half)) continue;
    s.loss += set.documents[d].loss;
    s.tokens += static_cast<double>(set.documents[d].tokens);
    s.bytes += static_cast<double>(set.documents[d].bytes);
  }
  return s;
}

double ratio(double sum, double of) { return of > 0 ? sum / of : std::numeric_limits<double>::quiet_NaN(); }

// One object of the file; `where` names it in messages.
struct Fields {
  const Json& object;
  std::string where;

  [[noreturn]] void refuse(const std::string& key, const std::string& found, const char* expected) const {
    std::string shown = found.size() > 60 ? found.substr(0, 60) + "..." : found;
    input_error("{}: {}: found {}, expected {}; remove the file and `upcycle compare` measures the run again", where,
                key, shown, expected);
  }
  const Json& at(const char* key, bool right(const Json&), const char* expected) const {
    if (!object.is_object()) refuse("the whole", object.dump(), "an object");
    const auto found = object.find(key);
    if (found == object.end()) refuse(key, "nothing", expected);
    if (!right(*found)) refuse(key, found->dump(), expected);
    return *found;
  }
  std::int64_t integer(const char* key) const {
    return at(key, is_count, "an integer of at least 0").get<std::int64_t>();
  }
  double number(const char* key) const {  // JSON has no NaN: null stands for it
    const Json& v = at(
        key, [](const Json& j) { return j.is_number() || j.is_null(); }, "a number");
    return v.is_null() ? std::numeric_limits<double>::quiet_NaN() : v.get<double>();
  }
  static bool is_count(const Json& j) { return j.is_number_unsigned() || (j.is_number_integer() && j >= 0); }
  void only(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, value] : object.items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) refuse(key, "this key", "no such key");
  }
};

SetMeasures set_from_json(const Json& j, const std::string& where) {
  const Fields f{j, where};
  SetMeasures set;
  set.name = f.at(
                  "name", [](const Json& n) { return n.is_string(); }, "a text")
                 .get<std::string>();
  set.candidates = f.integer("candidates");
  const Json& documents = f.at(
      "documents", [](const Json& d) { return d.is_array(); }, "a list");
  for (const Json& d : documents) {  // [loss, tokens, bytes]
    const bool right = d.is_array() && d.size() == 3 && (d[0].is_number() || d[0].is_null()) &&
                       Fields::is_count(d[1]) && Fields::is_count(d[2]);
    if (!right) f.refuse("documents", d.dump(), "[loss, tokens, bytes] of each");
    set.documents.push_back({d[0].is_null() ? std::numeric_limits<double>::quiet_NaN() : d[0].get<double>(),
                             d[1].get<std::int64_t>(), d[2].get<std::int64_t>()});
  }
  for (const Json& c : f.at(
           "cloze", [](const Json& l) { return l.is_array(); }, "a list")) {
    if (!c.is_number() || c < 0 || c > 1) f.refuse("cloze", c.dump(), "numbers from 0 to 1");
    set.cloze.push_back(c.get<double>());
  }
  if (!set.cloze.empty() && set.candidates < 2) f.refuse("candidates", j["candidates"].dump(), "at least 2");
  if (j.contains("cloze_documents"))
    for (const Json& d : f.at(
             "cloze_documents", [](const Json& l) { return l.is_array(); }, "a list")) {
      if (!Fields::is_count(d) || d >= set.documents.size())
        f.refuse("cloze_documents", d.dump(), "numbers of documents");
      set.cloze_documents.push_back(d.get<std::int64_t>());
    }
  if (!set.cloze_documents.empty() && set.cloze_documents.size() != set.cloze.size())
    f.refuse("cloze_documents", fmt::format("{}", set.cloze_documents.size()), "one of each item of cloze");
  f.only({"name", "candidates", "documents", "cloze", "cloze_documents"});
  return set;
}

}  // namespace

Json to_json(const RunMeasures& m) {
  Json sets = Json::array();
  for (const SetMeasures& set : m.sets) {
    Json documents = Json::array();
    for (const DocumentLoss& d : set.documents) documents.push_back(Json::array({d.loss, d.tokens, d.bytes}));
    Json cloze = Json::array();
    for (const double credit : set.cloze)
      cloze.push_back(credit == 0 || credit == 1 ? Json(static_cast<int>(credit)) : Json(credit));
    sets.push_back({{"name", set.name}, {"candidates", set.candidates}, {"documents", documents}, {"cloze", cloze}});
    if (!set.cloze_documents.empty()) sets.back()["cloze_documents"] = set.cloze_documents;
  }
  return {{"steps", m.steps},
          {"tokens", m.tokens},
          {"parameters", m.parameters},
          {"active_parameters", m.active_parameters},
          {"flops", m.flops},
          {"wall_seconds", m.wall_seconds},
          {"tokens_per_s", m.tokens_per_s},
          {"last_50_loss", m.last_50_loss},
          {"sets", sets},
          {"experts", m.experts}};
}

RunMeasures measures_from_json(const Json& j, const std::string& where) {
  const Fields f{j, where};
  RunMeasures m;
  m.steps = f.integer("steps");
  m.tokens = f.integer("tokens");
  m.parameters = f.integer("parameters");
  m.active_parameters = f.integer("active_parameters");
  m.flops = f.number("flops");
  m.wall_seconds = f.number("wall_seconds");
  m.tokens_per_s = f.number("tokens_per_s");
  m.last_50_loss = f.number("last_50_loss");
  const Json& sets = f.at(
      "sets", [](const Json& s) { return s.is_array(); }, "a list");
  for (std::size_t i = 0; i < sets.size(); ++i)
    m.sets.push_back(set_from_json(sets[i], fmt::format("{}: sets[{}]", where, i)));
  m.experts = f.at(
      "experts", [](const Json& e) { return e.is_null() || e.is_array(); }, "a list or null");
  f.only({"steps", "tokens", "parameters", "active_parameters", "flops", "wall_seconds", "tokens_per_s", "last_50_loss",
          "sets", "experts"});
  return m;
}

bool in_half(std::size_t index, std::size_t count, Half half) {
  return (index < (count + 1) / 2) == (half == Half::Choosing);
}

ClozeSums cloze_sums(const SetMeasures& set, Half half) {
  ClozeSums sums;
  if (set.cloze_documents.empty()) return {set.cloze, std::vector<double>(set.cloze.size(), 1.0)};
  std::map<std::int64_t, std::pair<double, double>> by_document;
  for (std::size_t i = 0; i < set.cloze.size(); ++i) {
    if (!in_half(static_cast<std::size_t>(set.cloze_documents[i]), set.documents.size(), half)) continue;
    auto& [credits, items] = by_document[set.cloze_documents[i]];
    credits += set.cloze[i];
    items += 1;
  }
  for (const auto& [document, sum] : by_document) {
    sums.credits.push_back(sum.first);
    sums.items.push_back(sum.second);
  }
  return sums;
}

double mean_loss(const SetMeasures& set, Half half) {
  const Sums s = sums_of(set, half);
  return ratio(s.loss, s.tokens);
}

double bits_per_byte(const SetMeasures& set, Half half) {
  const Sums s = sums_of(set, half);
  return ratio(s.loss / std::numbers::ln2, s.bytes);
}

}  // namespace upcycle
