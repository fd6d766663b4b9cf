#include "core/config/strict_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/core/input_error.h"

namespace upcycle {
namespace {

std::string nested(int depth, const char* open, const char* inside, const char* close) {
  std::string text;
  for (int i = 0; i < depth; ++i) text += open;
  text += inside;
  for (int i = 0; i < depth; ++i) text += close;
  return text;
}

// Copying or printing the value would take a stack as deep.
TEST(StrictJson, DeepNestingIsRefusedBeforeItIsParsed) {
  EXPECT_EQ(parse_strict_json(nested(json_depth_max, "[", "1", "]"), "x.json").dump().size(), 2u * json_depth_max + 1);
  for (const std::string& text : {nested(json_depth_max + 1, "[", "1", "]"), nested(1 << 20, "[", "", ""),
                                  nested(1 << 20, R"({"a":)", "", ""), nested(1 << 18, "[[[{\"]\": ", "1", "}]]]")}) {
    const std::string error = input_error_of([&] { (void)parse_strict_json(text, "x.json"); });
    for (const char* part : {"x.json", "line 1, column ", "found more than 256", "expected fewer"})
      EXPECT_NE(error.find(part), error.npos) << error;
    EXPECT_TRUE(nested_too_deeply(text));
  }
}

TEST(StrictJson, BracketsInTextsAreNoNesting) {
  const std::string brackets(1000, '[');
  for (const std::string& text :
       {"{\"a\": \"" + brackets + "\"}", "{\"a\\\"" + brackets + "\": 1}", "[\"\\\\\", \"" + brackets + "\"]"}) {
    EXPECT_FALSE(nested_too_deeply(text)) << text;
    EXPECT_NO_THROW((void)parse_strict_json(text, "x.json"));
  }
  std::string one_after_the_other;
  for (int i = 0; i < 5000; ++i) one_after_the_other += "[{}],";
  EXPECT_FALSE(nested_too_deeply(one_after_the_other));
  EXPECT_FALSE(nested_too_deeply("\"\\"));
}

}  // namespace
}  // namespace upcycle
