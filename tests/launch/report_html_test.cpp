#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>

#include "launch/study/report.h"
#include "tests/launch/small_report.h"

namespace upcycle {
namespace {

struct Tag {
  std::string name;
  bool closes = false;
  std::map<std::string, std::string> attributes;
};

// All tags of a page, checked: every element is closed in turn, attributes are quoted, and "<" and "&" occur in text
// only as entities.
std::vector<Tag> tags_of(const std::string& html) {
  static const std::regex tag_rule(R"re(<(/?)([a-zA-Z][a-z0-9A-Z]*)((?: [a-zA-Z-]+(?:="[^"<]*")?)*) ?(/?)>)re");
  static const std::regex attribute_rule(R"re( ([a-zA-Z-]+)(?:="([^"<]*)")?)re");
  static const std::regex entity_rule("&(?!(lt|gt|amp|quot);)");
  static const std::set<std::string> alone = {"meta"};
  std::vector<Tag> tags;
  std::vector<std::string> open;
  std::size_t at = html.find('\n') + 1;  // after the doctype
  while ((at = html.find('<', at)) != std::string::npos) {
    const std::size_t end = html.find('>', at) + 1;
    const std::string text = html.substr(at, end - at);
    std::smatch match;
    if (!std::regex_match(text, match, tag_rule)) {
      ADD_FAILURE() << "no tag: " << html.substr(at, 120);
      return tags;
    }
    Tag tag{match[2], match[1].length() > 0, {}};
    const std::string attributes = match[3];
    EXPECT_FALSE(std::regex_search(attributes, entity_rule)) << attributes;
    for (std::sregex_iterator a(attributes.begin(), attributes.end(), attribute_rule), none; a != none; ++a)
      tag.attributes[(*a)[1]] = (*a)[2];
    if (tag.closes) {
      EXPECT_FALSE(open.empty());
      if (open.empty() || open.back() != tag.name) {
        ADD_FAILURE() << "found </" << tag.name << ">, expected </" << (open.empty() ? "" : open.back()) << "> at "
                      << html.substr(at > 100 ? at - 100 : 0, 140);
        return tags;
      }
      open.pop_back();
    } else if (match[4].length() == 0 && !alone.contains(tag.name)) {
      open.push_back(tag.name);
    }
    at = end;
    if (!tag.closes && (tag.name == "script" || tag.name == "style"))
      at = html.find("</" + tag.name + ">", at);
    else
      EXPECT_FALSE(std::regex_search(html.substr(at, html.find('<', at) - at), entity_rule));
    tags.push_back(std::move(tag));
  }
  EXPECT_TRUE(open.empty());
  return tags;
}

std::string unescaped(std::string text) {
  for (const auto& [entity, letter] :
       std::vector<std::pair<std::string, std::string>>{{"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&amp;", "&"}})
    for (std::size_t at = 0; (at = text.find(entity, at)) != std::string::npos; at += letter.size())
      text.replace(at, entity.size(), letter);
  return text;
}

using Points = std::multiset<std::tuple<std::string, double, double>>;  // data-run, data-x, data-y

// By plot; the intervals of the table of comparisons are in "".
std::map<std::string, Points> points_of(const std::string& html) {
  std::map<std::string, Points> all;
  std::string chart;
  for (const Tag& tag : tags_of(html)) {
    const auto attribute = [&](const char* name) {
      const auto found = tag.attributes.find(name);
      return found == tag.attributes.end() ? "" : unescaped(found->second);
    };
    if (tag.name == "figure" && tag.closes) chart = "";
    if (tag.attributes.contains("data-chart")) chart = attribute("data-chart");
    if (tag.attributes.contains("data-x"))
      all[chart].insert({attribute("data-run"), std::stod(attribute("data-x")), std::stod(attribute("data-y"))});
  }
  return all;
}

// Without the data-run of each.
std::multiset<std::pair<double, double>> places(const Points& points) {
  std::multiset<std::pair<double, double>> all;
  for (const auto& [run, x, y] : points) all.insert({x, y});
  return all;
}

class ReportHtml : public ::testing::Test {
 protected:
  const Json report = small_report();
  const std::string html = report_html(report);
  std::map<std::string, Points> plots = points_of(html);

  // What `value` gives of each run of the results that is done: {x, y}.
  template <class Value>
  Points of_results(const Value& value) const {
    Points all;
    for (const Json& run : report["runs"])
      if (run["result"] == true && run["status"] == "done")
        for (const auto& [x, y] : std::vector<std::pair<double, double>>(value(run))) all.insert({run["name"], x, y});
    return all;
  }
};

TEST_F(ReportHtml, GainsAreThoseOfTheReport) {
  for (const std::string set : {"new", "old"}) {
    std::multiset<std::pair<double, double>> loss, cloze;
    for (const Json& c : report["comparisons"]) {
      if (c["set"] != set) continue;
      const double budget = c["budget"], gain = c["relative_gain"], base = c["baseline_loss"];
      loss.emplace(budget, gain);
      for (const Json& d : c["per_seed"]) loss.emplace(budget, -d.get<double>() / base);
      if (c["cloze"]["relative_gain"].is_number()) cloze.emplace(budget, c["cloze"]["relative_gain"].get<double>());
    }
    EXPECT_EQ(places(plots["gain loss " + set]), loss);
    EXPECT_EQ(places(plots["gain cloze " + set]), cloze);
  }
  EXPECT_EQ(places(plots["gain paper accuracy"]), (std::multiset<std::pair<double, double>>{{0.1, 0.25}}));
  EXPECT_EQ(plots["gain loss beside paper"].count({"paper 436M", 0.1, 0.25}), 1);
  EXPECT_EQ(plots["gain loss beside paper"].size(), 3);
  std::multiset<double> differences;
  for (const Json& c : report["comparisons"]) differences.insert(c["difference"].get<double>());
  std::multiset<double> shown;
  for (const auto& [run, x, y] : plots[""]) shown.insert(x);
  EXPECT_EQ(shown, differences);
}

TEST_F(ReportHtml, LossesAreThoseOfTheRuns) {
  using Values = std::vector<std::pair<double, double>>;
  for (const std::string set : {"new", "old"})
    for (const auto& [plot, cost] : std::map<std::string, std::string>{
             {"loss tokens ", "tokens"}, {"loss flops ", "flops"}, {"loss time ", "wall_seconds"}})
      EXPECT_EQ(plots[plot + set], of_results([&](const Json& run) { return Values{{run[cost], run["loss"][set]}}; }));
  const auto curve = [](const Json& curve, const Json& run, const std::string& cost) {
    Values all;
    for (std::size_t i = 0; i < curve["tokens"].size(); ++i) {
      const double tokens = curve["tokens"][i];
      all.push_back({cost == "tokens" ? tokens : tokens * run[cost].get<double>() / run["tokens"].get<double>(),
                     curve["loss"][i].get<double>()});
    }
    return all;
  };
  for (const auto& [name, cost] :
       std::map<std::string, std::string>{{"tokens", "tokens"}, {"FLOPs", "flops"}, {"time", "wall_seconds"}}) {
    Points held_out = of_results([&, c = cost](const Json& run) { return curve(run["held_out"]["new"], run, c); });
    Points training = of_results([&, c = cost](const Json& run) { return curve(run["curve"], run, c); });
    const Json& dense = report["runs"][0];  // its curves are drawn below
    for (const auto& [x, y] : curve(dense["held_out"]["new"], dense, cost)) held_out.insert({dense["name"], x, y});
    for (const auto& [x, y] : curve(dense["curve"], dense, cost)) training.insert({dense["name"], x, y});
    EXPECT_EQ(plots["curve new " + name], held_out);
    EXPECT_EQ(plots["curve training " + name], training);
  }
}

TEST_F(ReportHtml, ServingExpertsSweepsAndBreakEvenToo) {
  using Values = std::vector<std::pair<double, double>>;
  EXPECT_EQ(plots["quality new"], of_results([](const Json& run) {
              return Values{{run["arm"] == "upcycled" ? 4e-4 : 2e-4, run["loss"]["new"]}};
            }));
  EXPECT_EQ(places(plots["serving 1M"]),
            (std::multiset<std::pair<double, double>>{{0.3, 2000}, {2.5, 2500}, {0.3, 2000}, {2.5, 2500}}));
  EXPECT_EQ(places(plots["sweep 1M, 20 tokens per parameter, budget 0.2"]),
            (std::multiset<std::pair<double, double>>{{1e-4, 3.3}, {2e-4, 3.2}}));
  EXPECT_EQ(places(plots["total upcycled 1M 20 0.4"]),
            (std::multiset<std::pair<double, double>>{{1000, 3.05}, {1000, 2.95}, {100000, 2.945}}));
  const Json& run = report["runs"][6];  // of the verdict's cell, the first of the candidate
  const std::string name = run["name"];
  ASSERT_EQ(run["budget"], 0.4);
  for (const std::string key : {"weight_cosine", "pair_cosine", "output_cosine", "routing_changed"}) {
    Points expected;
    for (std::size_t t = 0; t < 2; ++t)
      if (run["experts"][key][t].is_array())
        for (std::size_t l = 0; l < 2; ++l)
          expected.insert({name + " layer " + std::to_string(l), run["experts"]["tokens"][t].get<double>(),
                           run["experts"][key][t][l].get<double>()});
    EXPECT_EQ(plots[key + " " + name], expected) << key;
  }
  EXPECT_EQ(plots["load " + name].size(), 4);
  EXPECT_EQ(plots["entropy " + name].count({name + " layer 1", 200, 0.55}), 1);
  std::map<std::pair<double, double>, double> cells;
  std::string chart;
  for (const Tag& tag : tags_of(html)) {
    if (tag.attributes.contains("data-chart")) chart = unescaped(tag.attributes.at("data-chart"));
    if (chart == "heat " + name && tag.attributes.contains("data-value"))
      cells[{std::stod(tag.attributes.at("data-y")), std::stod(tag.attributes.at("data-x"))}] =
          std::stod(tag.attributes.at("data-value"));
  }
  EXPECT_EQ(cells, (std::map<std::pair<double, double>, double>{
                       {{0, 0}, 0.4375}, {{0, 1}, 0.5625}, {{1, 0}, 0.25}, {{1, 1}, 0.75}}));
}

TEST_F(ReportHtml, TheGainIsAPictureOfItsOwn) {
  const std::string svg = gain_svg(report);
  std::multiset<std::pair<std::string, std::string>> drawn, page;
  for (const Tag& tag : tags_of("\n" + svg))
    if (tag.attributes.contains("data-x")) drawn.emplace(tag.attributes.at("data-x"), tag.attributes.at("data-y"));
  for (const char* plot : {"gain loss new", "gain loss beside paper"})
    for (const auto& [run, x, y] : plots[plot]) page.emplace(fmt::format("{}", x), fmt::format("{}", y));
  EXPECT_FALSE(drawn.empty());
  EXPECT_EQ(drawn, page);
  EXPECT_EQ(gain_svg(Json::object()).find("data-x"), std::string::npos);
}

TEST_F(ReportHtml, ItLoadsNothingAndTextStaysText) {
  for (const char* word :
       {"http://", "https://", "src=", "url(", "@import", "<link", "<b>", "<em>", "<p>t", "alert(1)</script>"})
    EXPECT_EQ(html.find(word), std::string::npos) << word;
  for (const char* word : {"died of &lt;b&gt;grief&lt;/b&gt;", "one &lt;note&gt;", "a &lt;small&gt; study", "c &lt; d",
                           "train &lt;b&gt;&amp;&quot;x&quot;&lt;/b&gt;", "1 failed", "never"})
    EXPECT_NE(html.find(word), std::string::npos) << word;
}

TEST(ReportHtmlOfLittle, SaysWhatIsAbsent) {
  for (const char* text :
       {"{}", R"({"study": {"name": "x", "new_set": "new"}, "runs": [], "comparisons": [], "serving": null})"}) {
    const std::string html = report_html(Json::parse(text));
    EXPECT_TRUE(points_of(html).empty());
    EXPECT_EQ(html.find("<figure"), std::string::npos);
    EXPECT_NE(html.find("There is no verdict yet."), std::string::npos);
    std::size_t absent = 0;
    for (std::size_t at = 0; (at = html.find("class=\"absent\"", at)) != std::string::npos; ++at) ++absent;
    EXPECT_GE(absent, 10);
  }
}

}  // namespace
}  // namespace upcycle
