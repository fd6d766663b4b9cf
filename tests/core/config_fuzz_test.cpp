#include "core/config/config.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/error.h"
#include "core/rng.h"
#include "tests/core/input_error.h"

namespace upcycle {
namespace {

constexpr std::uint64_t seed = 20240917;

// Draws number `draw` below n.
std::uint64_t below(std::uint64_t& draw, std::uint64_t n) {
  return rng::bits(seed, rng::key_of("config fuzz"), draw++)[0] % n;
}

// Whatever the text, parsing ends in a config whose every value is allowed, or in one line.
bool survives(const std::string& text, const std::vector<std::string>& overrides) {
  try {
    const Config c = parse_config_text(text, "fuzz.json", overrides);
    const Config back = parse_config_text(to_json(c), "again.json", {});
    EXPECT_EQ(to_json(back), to_json(c)) << text;
    return true;
  } catch (const InputError& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u) << message;
    return false;
  }
}

TEST(ConfigFuzz, MutatedTextNeverCrashes) {
  const std::string good = to_json(parse_config_text(
      R"({"train": {"steps": 10, "freeze": ["a.*"], "rampup_batch_size": [2, 2, 9], "param_groups": [{"params": "b", "lr_mult": 2}]}, "data": {"train": [{"path": "p", "weight": 2}], "valid": {"v": "w"}}})",
      "good.json", {}));
  const std::string pieces[] = {"{",       "}",
                                "[",       "]",
                                "\"",      ":",
                                ",",       "null",
                                "true",    "-1",
                                "1e308",   "1e999",
                                "\\u0000", "\xff",
                                "\n",      "99999999999999999999",
                                "0.5",     "\"seed\": 1,",
                                "\\",      "/*",
                                "{}",      "[[[["};
  ASSERT_TRUE(survives(good, {}));
  std::uint64_t draw = 0;
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = good;
    for (std::uint64_t edits = 1 + below(draw, 4); edits > 0; --edits) {
      const std::size_t at = below(draw, text.size());
      switch (below(draw, 7)) {
        case 0:
          text[at] = static_cast<char>(below(draw, 256));
          break;
        case 1:
          text.erase(at, 1 + below(draw, 20));
          break;
        case 2:
          text.insert(at, pieces[below(draw, std::size(pieces))]);
          break;
        case 3:
          text.insert(at, text.substr(below(draw, text.size()), below(draw, 60)));
          break;
        case 4:
          text.resize(at);
          break;
        default: {  // another digit: mostly still JSON
          const std::size_t digit = text.find_first_of("0123456789", at);
          if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(draw, 10));
        }
      }
      if (text.empty()) text.push_back(' ');
    }
    accepted += survives(text, {});
  }
  // Both ends must be reached, or the mutations are too tame or too wild to test anything.
  EXPECT_GT(accepted, 40);
  EXPECT_LT(accepted, 3600);
}

TEST(ConfigFuzz, OverridesOfAnyTextNeverCrash) {
  const std::string keys[] = {"train.steps",
                              "train.lr",
                              "data.train",
                              "data.valid",
                              "train.freeze",
                              "train.param_groups",
                              "checkpoint.dir",
                              "checkpoint.resume",
                              "model",
                              "model.rope_scaling",
                              "dtype",
                              "",
                              "train.",
                              ".",
                              "seed"};
  const std::string values[] = {"",
                                "1",
                                "-1",
                                "1.5",
                                "1e999",
                                "nan",
                                "true",
                                "\"",
                                "\"a\"",
                                "[",
                                "[]",
                                "{",
                                "{}",
                                "[1]",
                                "{\"a\":1}",
                                "{\"a\":\"b\"}",
                                "{\"factor\":2}",
                                "null",
                                "\xff\xfe",
                                "=",
                                "a b",
                                "[{\"path\":\"p\",\"weight\":-1}]",
                                "[{\"path\":\"p\"}]",
                                "fp32",
                                "99999999999999999999"};
  int accepted = 0, tried = 0;
  for (const std::string& key : keys) {
    for (const std::string& value : values) {
      accepted += survives("{}", {"--" + key + "=" + value});
      ++tried;
    }
  }
  EXPECT_GT(accepted, 20);
  EXPECT_LT(accepted, tried / 2);
}

TEST(ConfigFuzz, DeepNestingAndLongText) {
  EXPECT_FALSE(survives(std::string(1 << 19, '['), {}));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"train\":";
  EXPECT_FALSE(survives(deep + "1" + std::string(100000, '}'), {}));
  EXPECT_FALSE(survives("{\"train\": " + std::string(400000, '[') + std::string(400000, ']') + "}", {}));
  EXPECT_TRUE(survives("{\"checkpoint\": {\"dir\": \"" + std::string(1 << 19, 'a') + "\"}}", {}));
}

}  // namespace
}  // namespace upcycle
