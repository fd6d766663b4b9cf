#include "core/config/config.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/config/describe.h"
#include "core/config/fields.h"
#include "core/config/parse.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

using nlohmann::json;

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config_text(text, "run.json", overrides);
}
std::string parse_error(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return input_error_of([&] { parse(text, overrides); });
}
void expect_has(const std::string& message, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
}

struct File {
  std::string path = ::testing::TempDir() + "config_test_" + std::to_string(getpid()) + ".json";
  explicit File(const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
  ~File() { std::filesystem::remove(path); }
};

TEST(ConfigParse, DefaultsAreTheStructs) {
  const Config c = parse("{}"), defaults;
  EXPECT_EQ(c.model, defaults.model);
  EXPECT_EQ(c.train, defaults.train);
  EXPECT_EQ(c.upcycle, defaults.upcycle);
  EXPECT_EQ(c.dtype, "bf16");
  EXPECT_TRUE(c.given.empty());
}

TEST(ConfigParse, ReadsEveryType) {
  const Config c = parse(R"({"seed": 7, "dtype": "fp32", "model": {"hidden_size": 64, "tie_word_embeddings": true,
      "rope_scaling": {"rope_type": "llama3", "factor": 8}}, "train": {"lr": 1, "tokens": 1e6, "freeze": ["a.*", "b"]}})");
  EXPECT_EQ(c.seed, 7);
  EXPECT_EQ(c.dtype, "fp32");
  EXPECT_EQ(c.storage(), DType::F32);
  EXPECT_EQ(c.model.hidden_size, 64);
  EXPECT_TRUE(c.model.tie_word_embeddings);
  EXPECT_EQ(c.model.rope_scaling.rope_type, "llama3");
  EXPECT_EQ(c.model.rope_scaling.factor, 8);
  EXPECT_EQ(c.train.lr, 1);
  EXPECT_EQ(c.train.tokens, 1000000);
  EXPECT_EQ(c.train.freeze, (std::vector<std::string>{"a.*", "b"}));
}

TEST(ConfigParse, GivenNamesSourceOfEachKey) {
  const Config c = parse(R"({"seed": 7, "model": {"hidden_size": 64}, "train": {}})", {"--train.steps=3", "seed=8"});
  EXPECT_TRUE(c.was_given("model.hidden_size"));
  EXPECT_FALSE(c.was_given("model.vocab_size"));
  EXPECT_EQ(c.where("model.hidden_size"), "run.json");
  EXPECT_EQ(c.where("seed"), "command line");
  EXPECT_EQ(c.where("train.steps"), "command line");
  EXPECT_EQ(c.where("train.lr"), "default");
  EXPECT_EQ(c.seed, 8);
}

TEST(ConfigParse, DataTakesTextOrStructure) {
  const Config one = parse(R"({"data": {"train": "p", "valid": "v"}})");
  EXPECT_EQ(one.data.train, (std::vector<WeightedPath>{{"p", 1}}));
  EXPECT_EQ(one.data.valid, (std::map<std::string, std::string>{{"valid", "v"}}));
  const Config many =
      parse(R"({"data": {"train": [{"path": "p", "weight": 0.25}, {"path": "q"}], "valid": {"a": "x", "b": "y"}}})");
  EXPECT_EQ(many.data.train, (std::vector<WeightedPath>{{"p", 0.25}, {"q", 1}}));
  EXPECT_EQ(many.data.valid, (std::map<std::string, std::string>{{"a", "x"}, {"b", "y"}}));
  expect_has(parse_error(R"({"data": {"train": 5}})"), {"run.json: data.train: found 5, expected a PREFIX or a list"});
  expect_has(parse_error(R"({"data": {"train": [{"weight": 1}]}})"), {"run.json: data.train", "expected a PREFIX or"});
  expect_has(parse_error(R"({"data": {"train": ["p"]}})"), {"run.json: data.train", "expected a PREFIX or a list"});
  expect_has(parse_error(R"({"data": {"train": [{"path": "p", "wieght": 1}]}})"),
             {"'wieght'", "data.train", "run.json"});
  expect_has(parse_error(R"({"data": {"train": [{"path": "p", "weight": 0}]}})"), {"weight 0", "a weight > 0"});
  expect_has(parse_error(R"({"data": {"valid": ["p"]}})"),
             {"run.json: data.valid: found a list, expected a PREFIX or"});
  expect_has(parse_error(R"({"data": {"valid": {"": "p"}}})"), {"data.valid", "an empty name"});
}

TEST(ConfigParse, AListOfNamesIsOneTextOrAList) {
  const auto recompute = [](const std::string& text, const std::vector<std::string>& overrides) {
    return parse_config_text(text, "c.json", overrides).train.recompute;
  };
  EXPECT_EQ(recompute(R"({"train": {"recompute": "full"}})", {}), "full");
  EXPECT_EQ(recompute(R"({"train": {"recompute": ["norms", "mlp"]}})", {}), "norms,mlp");
  EXPECT_EQ(recompute("{}", {"--train.recompute=attention,norms"}), "attention,norms");
  EXPECT_EQ(recompute("{}", {R"(--train.recompute=["attention"])"}), "attention");
  expect_has(parse_error(R"({"train": {"recompute": []}})", {}),
             {"train.recompute: found an empty list, expected none"});
  expect_has(parse_error(R"({"train": {"recompute": ["full", "mlp"]}})", {}), {"found 'full' in a list"});
  expect_has(parse_error(R"({"train": {"recompute": [1]}})", {}), {"train.recompute: found a list, expected a text"});
}

TEST(ConfigParse, UnknownKeySuggestsTheNearest) {
  EXPECT_EQ(parse_error(R"({"train": {"warmup_step": 5}})"),
            "unknown key 'train.warmup_step' in run.json: did you mean 'train.warmup_steps'?");
  EXPECT_EQ(parse_error("{}", {"--train.warmup_step=5"}),
            "unknown key 'train.warmup_step' on the command line: did you mean 'train.warmup_steps'?");
  expect_has(parse_error(R"({"trian": {}})"), {"did you mean 'train'?"});
  expect_has(parse_error(R"({"train": {"tp": 2}})"), {"did you mean 'parallel.tp'?"});  // the wrong section
  expect_has(parse_error(R"({"model": {"rope_scaling": {"facto": 2}}})"),
             {"did you mean 'model.rope_scaling.factor'?"});
  expect_has(parse_error(R"({"qqqqqqqqqqqqqqqq": 1})"), {"'qqqqqqqqqqqqqqqq' in run.json: `upcycle help config`"});
  expect_has(parse_error("{\"" + std::string(100000, 'x') + "\": 1}"), {"unknown key 'xxx", "...'"});
  expect_has(parse_error(R"({"a\nb": 1})"), {"unknown key 'a\\x0ab'"});
  expect_has(parse_error(R"({"train.lr": 1})"), {"unknown key 'train.lr'", "an object in an object"});
}

TEST(ConfigParse, WrongTypes) {
  EXPECT_EQ(parse_error(R"({"train": {"steps": "many"}})"),
            "run.json: train.steps: found the text 'many', expected an integer; see `upcycle help config`");
  expect_has(parse_error(R"({"train": {"steps": 1.5}})"), {"train.steps: found 1.5, expected an integer"});
  expect_has(parse_error(R"({"train": {"steps": true}})"), {"train.steps: found true, expected an integer"});
  expect_has(parse_error(R"({"train": {"steps": null}})"), {"train.steps: found null"});
  expect_has(parse_error(R"({"train": {"steps": 1e300}})"), {"train.steps: found 1e+300, expected an integer"});
  expect_has(parse_error(R"({"seed": 18446744073709551615})"), {"seed: found 18446744073709551615", "2^63"});
  expect_has(parse_error(R"({"seed": 99999999999999999999})"), {"seed: found 1e+20, expected an integer"});
  expect_has(parse_error(R"({"train": {"lr": "big"}})"), {"train.lr: found the text 'big', expected a number"});
  expect_has(parse_error(R"({"train": {"lr": 1e999}})"), {"run.json", "1e999"});
  expect_has(parse_error(R"({"checkpoint": {"resume": 1}})"), {"checkpoint.resume: found 1, expected true or false"});
  expect_has(parse_error(R"({"checkpoint": {"dir": 1}})"), {"checkpoint.dir: found 1, expected a text"});
  expect_has(parse_error(R"({"checkpoint": {"dir": "a\u0000b"}})"), {"checkpoint.dir", "NUL"});
  expect_has(parse_error(R"({"train": {"freeze": "a"}})"),
             {"train.freeze: found the text 'a', expected a list of texts"});
  expect_has(parse_error(R"({"train": {"freeze": [1]}})"), {"train.freeze"});
  expect_has(parse_error(R"({"model": {"mlp_only_layers": 1}})"),
             {"model.mlp_only_layers: found 1, expected a list of integers"});
  expect_has(parse_error(R"({"model": {"mlp_only_layers": [1.5]}})"), {"model.mlp_only_layers"});
  expect_has(parse_error(R"({"train": 5})"), {"run.json: train: found 5, expected an object"});
  expect_has(parse_error("[]"), {"run.json: found an empty list, expected a JSON object"});
}

TEST(ConfigParse, NamesAndRangesOfTheTable) {
  expect_has(parse_error(R"({"train": {"optimizer": "adam"}})"),
             {"run.json: train.optimizer: found 'adam', expected adamw | lion | sgd; did you mean 'adamw'?"});
  expect_has(parse_error(R"({"dtype": "fp16"})"), {"dtype: found 'fp16', expected bf16 | fp32"});
  expect_has(parse_error(R"({"model": {"router_softmax": "x"}})"), {"topk_then_softmax | softmax_then_topk"});
  expect_has(parse_error(R"({"train": {"beta2": 1}})"), {"train.beta2: found 1.0, expected in [0, 1)"});
  expect_has(parse_error(R"({"train": {"lr": -1}})"), {"train.lr: found -1.0, expected >= 0"});
  expect_has(parse_error(R"({"upcycle": {"drop_ratio": 1.01}})"),
             {"upcycle.drop_ratio: found 1.01, expected in [0, 1]"});
  expect_has(parse_error(R"({"train": {"eps": 0}})"), {"train.eps: found 0.0, expected > 0"});
  expect_has(parse_error(R"({"model": {"hidden_size": 9e15}})"), {"model.hidden_size", "expected at most 1073741824"});
  expect_has(parse_error("{}", {"--train.seq_length=0"}), {"command line: train.seq_length: found 0, expected >= 1"});
}

TEST(ConfigParse, SyntaxErrorsSayWhere) {
  expect_has(parse_error("{\n  \"seed\": 1,\n  \"dtype\" \"fp32\"\n}"), {"run.json: line 3, column", "not JSON"});
  expect_has(parse_error(""), {"run.json: line 1, column 1", "not JSON"});
  expect_has(parse_error("{\"seed\": 1} x"), {"run.json: line 1, column 13"});
  expect_has(parse_error("{\"seed\": \"" + std::string(5000, 'a')), {"run.json: line 1, column 5011"});
  EXPECT_LT(parse_error("{\"seed\": \"" + std::string(5000, 'a')).size(), 500u);
  expect_has(parse_error("{\"dtype\": \"\xff\"}"), {"run.json: line 1"});
}

TEST(ConfigParse, DuplicateKeysAreRefused) {
  EXPECT_EQ(parse_error(R"({"seed": 1, "seed": 2})"), "run.json: key 'seed' is given twice in one object; remove one");
  expect_has(parse_error(R"({"train": {"lr": 1}, "train": {"steps": 2}})"), {"'train' is given twice"});
  expect_has(parse_error("{}", {R"(--data.valid={"a": "x", "a": "y"})"}), {"'a' is given twice"});
  // The same name in two objects is no duplicate.
  EXPECT_EQ(parse(R"({"seed": 1, "data": {"seed": 2}})").data.seed, 2);
}

TEST(ConfigParse, OverridesApplyInOrderOverTheFile) {
  const Config c = parse(
      R"({"train": {"lr": 0.1, "steps": 5}})",
      {"--train.lr=0.2", "train.lr=0.3", "--checkpoint.dir=123", "--checkpoint.resume=false", "--data.train=my/prefix",
       "--train.freeze=*.mlp.*", "--init.load=\"quoted\"", "--upcycle.at_step=-1", R"(--data.valid={"a": "x"})",
       "--train.tokens=1e6", R"(--model.rope_scaling={"rope_type": "llama3", "factor": 4})"});
  EXPECT_EQ(c.train.lr, 0.3);
  EXPECT_EQ(c.train.steps, 5);
  EXPECT_EQ(c.checkpoint.dir, "123");
  EXPECT_FALSE(c.checkpoint.resume);
  EXPECT_EQ(c.data.train, (std::vector<WeightedPath>{{"my/prefix", 1}}));
  EXPECT_EQ(c.train.freeze, (std::vector<std::string>{"*.mlp.*"}));
  EXPECT_EQ(c.init.load, "quoted");
  EXPECT_EQ(c.data.valid.at("a"), "x");
  EXPECT_EQ(c.train.tokens, 1000000);
  EXPECT_EQ(c.model.rope_scaling.factor, 4);
  EXPECT_TRUE(c.was_given("model.rope_scaling.factor"));
  EXPECT_EQ(parse("{}", {"--model.mlp_only_layers=[0, 3]"}).model.mlp_only_layers, (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(parse("{}", {R"(--train.freeze=["a", "b"])"}).train.freeze, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parse("{}", {"--checkpoint.dir=a=b"}).checkpoint.dir, "a=b");
  EXPECT_EQ(parse(R"({"checkpoint": {"dir": "x"}})", {"--checkpoint.dir="}).checkpoint.dir, "");
}

TEST(ConfigParse, BadOverrides) {
  expect_has(parse_error("{}", {"--train.steps"}),
             {"command line: train.steps: found no value", "--train.steps=VALUE"});
  expect_has(parse_error("{}", {"--train.steps=abc"}),
             {"command line: train.steps: found the text 'abc', expected an integer"});
  expect_has(parse_error("{}", {"--train.steps="}), {"train.steps: found the text ''"});
  expect_has(parse_error("{}", {"--train.lr=nan"}), {"train.lr: found the text 'nan', expected a number"});
  expect_has(parse_error("{}", {"--train=5"}), {"command line: train: found '5', expected a JSON object"});
  expect_has(parse_error("{}", {"--train=abc"}), {"command line: train: found 'abc', expected a JSON object"});
  expect_has(parse_error("{}", {"=5"}), {"unknown key '' on the command line"});
  expect_has(parse_error("{}", {"--checkpoint.dir=\xff"}), {"checkpoint.dir", "UTF-8"});
  expect_has(parse_error("{}", {"--data.train=[{\"path\": "}), {"command line: data.train: line 1", "not JSON"});
  EXPECT_TRUE(is_override("--train.lr=1"));
  EXPECT_TRUE(is_override("seed=1"));
  EXPECT_FALSE(is_override("--train.lr"));
  EXPECT_FALSE(is_override("--=1"));
  EXPECT_FALSE(is_override("a/b=1"));
}

TEST(ConfigFile, ReadAndRefused) {
  const File good(R"({"seed": 4})");
  EXPECT_EQ(parse_config(good.path, {}).seed, 4);
  EXPECT_EQ(parse_config(good.path, {}).where("seed"), good.path);
  EXPECT_EQ(parse_config("", {"--seed=6"}).seed, 6);
  expect_has(input_error_of([] { parse_config("no/such.json", {}); }), {"no/such.json: found no such file"});
  expect_has(input_error_of([] { parse_config(::testing::TempDir(), {}); }), {"found a directory"});
  const std::string filler = "{\"seed\": 4}";
  const File limit(filler + std::string((1 << 20) - filler.size(), ' '));
  EXPECT_EQ(parse_config(limit.path, {}).seed, 4);
}

TEST(ConfigFile, PastOneMebibyteIsRefused) {
  const File large("{\"seed\": 4}" + std::string(1 << 20, ' '));
  expect_has(input_error_of([&] { parse_config(large.path, {}); }),
             {large.path.c_str(), "1048587", "at most 1048576 bytes"});
}

TEST(ConfigJson, RoundTripsEveryField) {
  Config c = parse(R"({"seed": 3, "train": {"lr": 0.1234567890123456, "tokens": 9007199254740991, "freeze": ["x"]},
      "data": {"train": [{"path": "p", "weight": 0.1}], "valid": {"n\u00e9": "v"}}, "upcycle": {"at_step": 5},
      "model": {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32}},
      "checkpoint": {"dir": "a b/\"c\"", "background": false}})");
  const std::string text = to_json(c);
  const Config back = parse_config_text(text, "resolved.json", {});
  EXPECT_EQ(back.model, c.model);
  EXPECT_EQ(back.init, c.init);
  EXPECT_EQ(back.upcycle, c.upcycle);
  EXPECT_EQ(back.data, c.data);
  EXPECT_EQ(back.train, c.train);
  EXPECT_EQ(back.parallel, c.parallel);
  EXPECT_EQ(back.checkpoint, c.checkpoint);
  EXPECT_EQ(to_json(back), text);
  EXPECT_EQ(back.given.size(), fields().size());
}

TEST(ConfigJson, ModelRoundTrips) {
  ModelConfig m;
  m.hidden_size = 64;
  m.rope_scaling = {"llama3", 8, 1, 4, 1024};
  m.rope_scaling.long_factor = {1.5, 2};
  m.num_local_experts = 8;
  m.router_aux_loss_coef = 0.001;
  EXPECT_EQ(model_from_json(to_json(m), "manifest.json"), m);
  expect_has(input_error_of([] { model_from_json(R"({"hidden": 1})", "manifest.json"); }),
             {"unknown key 'model.hidden' in manifest.json"});
  expect_has(input_error_of([] { model_from_json("{", "manifest.json"); }), {"manifest.json: line 1"});
}

// Help is checked against the resolved defaults, which are written by other code: each key with its own default.
TEST(ConfigHelp, PrintsEveryKeyWithItsDefault) {
  const Config defaults;
  const std::string help = config_help();
  const json resolved = json::parse(to_json(defaults));
  std::map<std::string, std::string> line_of;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) line_of[line.substr(0, line.find(' '))] = line;
  for (const Field& f : fields()) {
    ASSERT_TRUE(line_of.count(f.key)) << f.key;
    std::string pointer = "/" + f.key;
    for (char& ch : pointer) ch = ch == '.' ? '/' : ch;
    const std::string expected = resolved.at(json::json_pointer(pointer)).dump();
    EXPECT_NE(line_of[f.key].find("; default " + expected + "; "), std::string::npos) << line_of[f.key];
    EXPECT_FALSE(f.meaning.empty()) << f.key;
  }
  EXPECT_NE(line_of["train.beta2"].find("default 0.95"), std::string::npos);
  EXPECT_NE(line_of["train.optimizer"].find("adamw | lion | sgd"), std::string::npos);
}

// A field added to a struct but not to the table would silently not be a key. The structs' sizes tell.
TEST(ConfigHelp, TableHasEveryMember) {
  std::map<std::string, std::size_t> fields_of;
  for (const Field& f : fields())
    ++fields_of[f.key.substr(0, f.key.rfind('.') == std::string::npos ? 0 : f.key.rfind('.'))];
  EXPECT_EQ(fields_of[""], 3u);
  EXPECT_EQ(sizeof(RopeScaling),
            sizeof(std::string) + 2 * sizeof(std::vector<double>) + 8 + (fields_of["model.rope_scaling"] - 4) * 8);
  EXPECT_EQ(sizeof(ParallelConfig), fields_of["parallel"] * 8);
  EXPECT_EQ(sizeof(InitConfig), fields_of["init"] * sizeof(std::string));
  EXPECT_EQ(sizeof(UpcycleConfig), 2 * sizeof(std::string) + (fields_of["upcycle"] - 2) * 8);
  EXPECT_EQ(sizeof(TrainConfig),
            8 * sizeof(std::string) + 3 * sizeof(std::vector<std::string>) + (fields_of["train"] - 11) * 8);
  EXPECT_EQ(sizeof(CheckpointConfig), 3 * sizeof(std::string) + 6 * 8 + 8);  // two flags share the last word
  EXPECT_EQ(fields_of["checkpoint"], 11u);
  EXPECT_EQ(sizeof(ModelConfig), sizeof(RopeScaling) + 7 * sizeof(std::string) + sizeof(std::vector<std::int64_t>) +
                                     5 * 8 + (fields_of["model"] - 14) * 8);  // two of six flags share a word
}

TEST(ConfigParse, Beta2FollowsTheOptimizerUntilItIsGiven) {
  const auto beta2 = [](const std::vector<std::string>& overrides) {
    return parse_config_text("{}", "c.json", overrides).train.beta2;
  };
  EXPECT_EQ(beta2({}), 0.95);
  EXPECT_EQ(beta2({"train.optimizer=sgd"}), 0.95);
  EXPECT_EQ(beta2({"train.optimizer=lion"}), 0.99);
  EXPECT_EQ(beta2({"train.optimizer=lion", "train.beta2=0.98"}), 0.98);
  EXPECT_EQ(parse_config_text(R"({"train": {"optimizer": "lion"}})", "c.json", {}).train.beta1, 0.9);
}

TEST(ConfigParse, ParamGroups) {
  const std::string text =
      R"([{"params": "*.gate.weight", "lr_mult": 0.1, "weight_decay": 0}, {"params": "*.experts.*", "lr_mult": 2}])";
  const std::vector<ParamRule> expected{{"*.gate.weight", 0.1, 0}, {"*.experts.*", 2, -1}};
  EXPECT_EQ(parse(R"({"train": {"param_groups": )" + text + "}}").train.param_groups, expected);
  const Config c = parse("{}", {"--train.param_groups=" + text});
  EXPECT_EQ(c.train.param_groups, expected);
  EXPECT_EQ(parse(to_json(c)).train.param_groups, expected);
  const auto error = [&](const std::string& value) { return parse_error("{}", {"--train.param_groups=" + value}); };
  expect_has(error(R"([{"params": "a", "lr": 1}])"),
             {"unknown key 'lr' in an entry of train.param_groups in command line: expected params, lr_mult and"});
  expect_has(error(R"([{"lr_mult": 1}])"),
             {"train.param_groups: found a list, expected a list of {\"params\": PATTERN"});
  expect_has(error(R"([{"params": "a", "lr_mult": -1}])"),
             {"train.param_groups: found lr_mult -1, expected a number >="});
  expect_has(error(R"([{"params": "a", "weight_decay": -1}])"), {"train.param_groups: found weight_decay -1"});
  expect_has(error(R"([{"params": ""}])"), {"train.param_groups: found empty params, expected a pattern of names"});
  expect_has(error("*.gate.weight"), {"train.param_groups: found the text '*.gate.weight', expected a list of"});
  expect_has(error(R"([{"params": "a")"), {"command line: train.param_groups: line 1"});
}

TEST(ConfigParse, ABlendMayBeAFile) {
  const TemporaryFolder folder;
  const auto train = [&](const std::string& text) {
    return parse_config_text("{}", "c.json", {"data.blend=" + folder.write("blend", text)}).data;
  };
  const std::vector<WeightedPath> expected{{"tokens/a", 0.25}, {"tokens/b", 3}};
  EXPECT_EQ(train("0.25 tokens/a\n3 tokens/b\n").train, expected);
  EXPECT_EQ(train("0.25 tokens/a 3 tokens/b").train, expected);
  EXPECT_EQ(train(R"([{"path": "tokens/a", "weight": 0.25}, {"path": "tokens/b", "weight": 3}])").train, expected);
  EXPECT_EQ(train("1 a").blend, "");  // the resolved config holds what was read
  const auto error = [&](const std::string& text) { return input_error_of([&] { (void)train(text); }); };
  EXPECT_TRUE(contains(error("tokens/a tokens/b"), "expected WEIGHT PREFIX pairs"));
  EXPECT_TRUE(contains(error("1 tokens/a 2"), "expected WEIGHT PREFIX pairs"));
  EXPECT_TRUE(contains(error("0 tokens/a"), "a weight > 0"));
  EXPECT_TRUE(contains(error(" "), "no token set"));
  EXPECT_TRUE(contains(input_error_of([&] {
                         (void)parse_config_text(R"({"data": {"train": "x"}})", "c.json",
                                                 {"data.blend=" + folder.file("blend")});
                       }),
                       "data.blend: found "));
}

TEST(ConfigParse, MinLrFollowsLrUntilItIsGiven) {
  EXPECT_DOUBLE_EQ(parse_config_text("{}", "c.json", {"train.lr=1e-5"}).train.min_lr, 1e-6);
  EXPECT_DOUBLE_EQ(parse_config_text("{}", "c.json", {"train.lr=1e-5", "train.min_lr=0"}).train.min_lr, 0);
  EXPECT_DOUBLE_EQ(parse_config_text("{}", "c.json", {}).train.min_lr, TrainConfig{}.min_lr);
  EXPECT_DOUBLE_EQ(parse_config_text("{}", "c.json", {"train.lr=1e-5", "train.min_lr_ratio=0"}).train.min_lr, 0);
  // Resolved and read again it is the same.
  const Config given = parse_config_text("{}", "c.json", {"train.lr=2e-5", "train.min_lr_ratio=0.3"});
  EXPECT_DOUBLE_EQ(given.train.min_lr, 6e-6);
  EXPECT_EQ(parse_config_text(to_json(given), "run.json", {}).train, given.train);
}

}  // namespace
}  // namespace upcycle
