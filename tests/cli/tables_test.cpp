#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "core/config/fields.h"
#include "tests/cli/run_program.h"
#include "tests/cli/small_run.h"

// What is made from the tables of commands and config keys: help with its examples, the manual page, completion; and
// the page that names keys for people who come from elsewhere.
namespace upcycle {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> commands() {
  std::vector<std::string> names;
  for (const std::string& line : lines_of(run_upcycle({"help"}).out)) {
    std::smatch m;
    if (std::regex_match(line, m, std::regex("  ([a-z]+) .*")) && m[1] != "help") names.push_back(m[1]);
  }
  EXPECT_GT(names.size(), 12u);
  return names;
}

std::string help_of(const std::vector<std::string>& command) {
  std::vector<std::string> words = command;
  words.emplace_back("--help");
  const Outcome o = run_upcycle(words);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  return o.out;
}

// Its options are its own or, where it takes them, config keys.
void check_example(const std::string& line) {
  std::smatch m;
  ASSERT_TRUE(std::regex_search(line, m, std::regex("(?:upcycle|run_local.sh -n [0-9]+) ([a-z]+)(?: ([a-z]+))?")))
      << line;
  std::vector<std::string> command{m[1]};
  const std::set<std::string> own{"serve", "predict", "calibrate", "checkpoint"};
  if (m[1] == "bench" && own.contains(m[2])) command.push_back(m[2]);
  const std::string help = help_of(command);
  const bool keys = help.find("Any config key") != std::string::npos;
  const std::regex options("--([a-z0-9_.-]+)");
  for (std::sregex_iterator i(line.begin(), line.end(), options), end; i != end; ++i) {
    const std::string name = (*i)[1];
    const bool own = std::regex_search(help, std::regex("(^|[ ,])--" + name + "[ ,\n]"));
    EXPECT_TRUE(own || (keys && find_field(name) != nullptr)) << line << ": --" << name;
  }
}

TEST(Tables, EveryCommandHasExamplesOfOptionsThatItHas) {
  std::vector<std::vector<std::string>> all;
  for (const std::string& name : commands()) all.push_back({name});
  for (const char* name : {"serve", "predict", "calibrate", "checkpoint"}) all.push_back({"bench", name});
  for (const auto& command : all) {
    const std::string help = help_of(command);
    const std::size_t begin = help.find("Examples:");
    ASSERT_NE(begin, std::string::npos) << help;
    int examples = 0;
    for (const std::string& line : lines_of(help.substr(begin)))
      if (line.starts_with("  upcycle") || line.starts_with("  launch/")) {
        check_example(line);
        ++examples;
      }
    EXPECT_GT(examples, 0) << help;
  }
}

TEST(Tables, TheManualPageHasEveryCommandAndKey) {
  const Outcome page = run_upcycle({"help", "man"});
  EXPECT_EQ(page.exit_code, 0);
  for (const std::string& name : commands())
    EXPECT_NE(page.out.find(".SS upcycle " + name + "\n"), std::string::npos) << name;
  for (const Field& f : fields()) EXPECT_NE(page.out.find(f.key), std::string::npos) << f.key;
  const SmallRun small;
  const std::string file = small.folder.write("upcycle.1", page.out);
  const Outcome groff = run_program(
      {"/bin/bash", "-c", "command -v groff >/dev/null || exit 77; groff -man -ww -z -Tutf8 '" + file + "' 2>&1"});
  if (groff.exit_code == 77) GTEST_SKIP() << "no groff here";
  EXPECT_EQ(groff.exit_code, 0);
  EXPECT_EQ(groff.out, "");
}

std::set<std::string> completed(const std::string& script, const std::string& line) {
  const Outcome o = run_program({"/bin/bash", "-c",
                                 "source '" + script + "'; COMP_LINE='" + line +
                                     "'; COMP_POINT=${#COMP_LINE}; _upcycle; "
                                     "printf '%s\\n' \"${COMPREPLY[@]}\""});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  std::set<std::string> words;
  for (const std::string& word : lines_of(o.out)) words.insert(word);
  return words;
}

TEST(Tables, CompletionKnowsCommandsOptionsKeysAndNames) {
  const SmallRun small;
  const std::string script = small.folder.write("completion", run_upcycle({"help", "completion"}).out);
  using Words = std::set<std::string>;
  EXPECT_EQ(completed(script, "upcycle tr"), Words{"train"});
  EXPECT_EQ(completed(script, "upcycle e"), (Words{"eval", "experts", "export"}));
  EXPECT_EQ(completed(script, "upcycle tokenize --doc"), Words{"--doc-separator="});
  EXPECT_EQ(completed(script, "upcycle train moe.json --train.optimizer=l"), Words{"lion"});
  EXPECT_EQ(completed(script, "upcycle train moe.json --parallel.t"),
            (Words{"--parallel.tp=", "--parallel.timeout_s="}));
  EXPECT_EQ(completed(script, "upcycle bench predict c.json --mach"), Words{"--machine="});
  EXPECT_EQ(completed(script, "upcycle help conf"), Words{"config"});
  EXPECT_EQ(completed(script, "upcycle import --train"), Words{""});  // takes no keys
}

TEST(ComingFrom, NamesKeysThatThereAre) {
  std::ifstream in(UPCYCLE_ROOT "/launch/coming_from.md");
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::regex named("`([a-z]+\\.[a-z_.]+)`");
  int keys = 0;
  for (std::sregex_iterator i(text.begin(), text.end(), named), end; i != end; ++i, ++keys)
    EXPECT_NE(find_field((*i)[1].str()), nullptr) << (*i)[1];
  EXPECT_GT(keys, 60);
}

}  // namespace
}  // namespace upcycle
