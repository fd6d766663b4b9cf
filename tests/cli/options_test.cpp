#include "launch/options.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace upcycle {
namespace {

struct Parsed {
  bool ran = false;
  std::string error;
  bool json = false;
  std::string model, output = "here";
  std::int64_t count = 3;
  double temperature = 0.5;
  std::vector<std::string> files, overrides;
};

Parsed parse(const std::vector<std::string>& arguments, bool with_overrides = true) {
  Parsed p;
  Options options("play", "Plays.");
  options.flag("--json", p.json, "one object");
  options.option("-o,--output", p.output, "where");
  options.option("--count", p.count, "how many");
  options.option("--temperature", p.temperature, "how warm");
  options.positional("model", p.model, "what");
  options.positionals("files", p.files, "which", Need::Optional);
  if (with_overrides) options.config_overrides(p.overrides);
  try {
    p.ran = options.parse(arguments);
  } catch (const InputError& e) {
    p.error = e.what();
    EXPECT_EQ(p.error.find('\n'), std::string::npos) << p.error;
  }
  return p;
}

void expect_error(const std::vector<std::string>& arguments, const std::string& part, bool with_overrides = true) {
  const Parsed p = parse(arguments, with_overrides);
  EXPECT_TRUE(p.error.starts_with("command line: ")) << p.error << " for " << ::testing::PrintToString(arguments);
  EXPECT_NE(p.error.find(part), std::string::npos) << p.error;
  EXPECT_NE(p.error.find("`upcycle help play`"), std::string::npos) << p.error;
}

TEST(Options, DefaultsStay) {
  const Parsed p = parse({"m"});
  EXPECT_TRUE(p.ran) << p.error;
  EXPECT_EQ(p.model, "m");
  EXPECT_EQ(p.output, "here");
  EXPECT_EQ(p.count, 3);
  EXPECT_FALSE(p.json);
  EXPECT_TRUE(p.files.empty());
}

TEST(Options, ValuesInEitherFormAndAnyOrder) {
  const Parsed p = parse({"--count", "-5", "m", "--temperature=1e-3", "a", "-o", "x=y", "--json", "b"});
  EXPECT_TRUE(p.ran) << p.error;
  EXPECT_EQ(p.count, -5);
  EXPECT_EQ(p.temperature, 1e-3);
  EXPECT_EQ(p.output, "x=y");
  EXPECT_TRUE(p.json);
  EXPECT_EQ(p.files, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parse({"m", "--count=1", "--count=2"}).count, 2);  // as with overrides, the last one counts
  EXPECT_EQ(parse({"m", "--", "--json"}).files, (std::vector<std::string>{"--json"}));
}

TEST(Options, OverridesArePassedOnInOrder) {
  const Parsed p =
      parse({"--train.lr=1", "m", "--seed=2", "--count=4", "--train.lr=3", "--data.train=[{\"path\": \"a\"}]"});
  EXPECT_TRUE(p.ran) << p.error;
  EXPECT_EQ(p.overrides,
            (std::vector<std::string>{"--train.lr=1", "--seed=2", "--train.lr=3", "--data.train=[{\"path\": \"a\"}]"}));
  EXPECT_EQ(p.count, 4);
  EXPECT_TRUE(p.files.empty());
}

TEST(Options, Errors) {
  expect_error({}, "model is required");
  expect_error({"m", "--cuont=4"}, "unknown option '--cuont', did you mean '--count'?", false);
  expect_error({"m", "--train.lr=4"}, "unknown option '--train.lr'", false);
  expect_error({"m", "--train.lr", "4"}, "--KEY=VALUE");
  expect_error({"m", "--count=x"}, "--count");
  expect_error({"m", "--count=1.5"}, "--count");
  expect_error({"m", "--count=99999999999999999999"}, "--count");
  expect_error({"m", "--temperature=warm"}, "--temperature");
  expect_error({"m", "--temperature=nan"}, "--temperature");
  expect_error({"m", "--temperature=1e999"}, "--temperature");
  expect_error({"m", "--output=", "a"}, "--output: found an empty value");
  expect_error({"m", "--output"}, "--output");
  expect_error({"m", "-x"}, "-x");
  expect_error({"m", "--count=two\nlines"}, "--count");
}

TEST(Options, HelpPrintsAndDoesNotRun) {
  ::testing::internal::CaptureStdout();
  const Parsed p = parse({"--help"});
  const std::string help = ::testing::internal::GetCapturedStdout();
  EXPECT_FALSE(p.ran);
  EXPECT_EQ(p.error, "");
  for (const char* part : {"upcycle play", "Plays.", "--count", "=3", "how warm", "model", "help config"})
    EXPECT_NE(help.find(part), std::string::npos) << part << " is not in: " << help;
}

}  // namespace
}  // namespace upcycle
