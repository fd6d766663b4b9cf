#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/small_run.h"

// What a model's config.json says comes out as it went in: after import, after training, and after upcycling what still
// holds.
namespace upcycle {
namespace {

using nlohmann::json;

json json_file(const std::string& path) { return json::parse(std::ifstream(path), nullptr, false); }

class ConfigKeys : public testing::Test {
 protected:
  void SetUp() override {
    const std::string run = small.train("random", {{"train", {{"steps", 1}}}});
    ASSERT_EQ(run_upcycle({"export", run, small.file("hf"), "--dtype=bf16", "--to=mistral"}).exit_code, 0);
    before = json_file(small.file("hf/config.json"));
    before.merge_patch({{"eos_token_id", {257, 7}}, {"pad_token_id", 3}, {"a_later_key", "x"}, {"dtype", "bfloat16"}});
    before.erase("torch_dtype");
    small.folder.write("hf/config.json", before.dump());
    small.folder.write("hf/generation_config.json", R"({"eos_token_id":[257,7],"top_p":0.5})");
  }
  json exported(const std::string& run, const std::string& name, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"export", run, small.file(name)};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome o = run_upcycle(words);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_FALSE(std::filesystem::exists(small.file(name + "/imported_config.json")));
    return json_file(small.file(name + "/config.json"));
  }
  const SmallRun small;
  json before;
};

class ConfigKeysOfHalves : public ConfigKeys, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    ConfigKeys::SetUp();
    if (GetParam() == std::string("bfloat16")) return;  // as the folder is
    const std::string half = small.file("half");
    ASSERT_EQ(run_upcycle({"export", small.file("hf"), half, "--dtype=fp16"}).exit_code, 0);
    std::filesystem::remove_all(small.file("hf"));
    std::filesystem::rename(half, small.file("hf"));
    before["dtype"] = "float16";
  }
};

TEST_P(ConfigKeysOfHalves, AfterImportFilesAreTheSame) {
  EXPECT_EQ(json_file(small.file("hf/config.json")), before);
  const std::string dense = small.file("dense");
  ASSERT_EQ(run_upcycle({"import", small.file("hf"), dense}).exit_code, 0);
  EXPECT_EQ(exported(dense, "out"), before);
  EXPECT_EQ(json_file(small.file("out/generation_config.json"))["top_p"], 0.5);
  const auto bytes = [&](const char* name) {
    std::ifstream in(small.file(name + std::string("/model.safetensors")), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(bytes("out"), bytes("hf"));
  EXPECT_EQ(exported(small.file("hf"), "straight"), before);
  EXPECT_EQ(bytes("straight"), bytes("hf"));
  ASSERT_EQ(run_upcycle({"reshard", dense, small.file("two"), "--world=2", "--parallel.tp=2"}).exit_code, 0);
  EXPECT_EQ(exported(small.file("two"), "resharded"), before);
}
INSTANTIATE_TEST_SUITE_P(Types, ConfigKeysOfHalves, testing::Values("bfloat16", "float16"),
                         [](const auto& p) { return std::string(p.param); });

TEST_F(ConfigKeys, AfterTrainingAndUpcycling) {
  const json init = {{"load", small.file("hf")}}, steps = {{"steps", 1}};
  small.folder.write("tokenizer.json", "{}");
  const json with_tokenizer = {{"tokenizer", small.file("tokenizer.json")}};
  const std::string run = small.train("run", {{"init", init}, {"train", steps}, {"data", with_tokenizer}});
  json after = before;
  after["dtype"] = "float32";  // as the masters
  EXPECT_EQ(exported(run, "trained"), after);
  EXPECT_TRUE(std::filesystem::exists(small.file("trained/tokenizer.json")));
  EXPECT_EQ(json_file(small.file("trained/generation_config.json"))["top_p"], 0.5);
  EXPECT_EQ(exported(run, "rounded", {"--dtype=bf16"}), before);
  EXPECT_EQ(exported(run, "llama", {"--to=llama"})["pad_token_id"], 3);

  const json moe = exported(small.train("moe", {{"init", {{"upcycle", run}}},
                                                {"train", steps},
                                                {"model", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}}}}),
                            "moe_hf");
  EXPECT_EQ(moe["model_type"], "mixtral");
  EXPECT_EQ(moe["eos_token_id"], json({257, 7}));
  EXPECT_EQ(moe["pad_token_id"], 3);
  EXPECT_FALSE(moe.contains("a_later_key"));
  EXPECT_EQ(json_file(small.file("moe_hf/generation_config.json"))["top_p"], 0.5);
}

// Where config.json says bf16 of tensors that are not, they are not rounded silently.
TEST_F(ConfigKeys, NothingIsRoundedUnasked) {
  const std::string run = small.file("random");
  ASSERT_EQ(run_upcycle({"export", run, small.file("fp32"), "--to=mistral"}).exit_code, 0);
  std::filesystem::remove(small.file("fp32/config.json"));
  std::filesystem::copy(small.file("hf/config.json"), small.file("fp32/config.json"));
  const std::string line = one_line_error(run_upcycle({"export", small.file("fp32"), small.file("out")}));
  EXPECT_NE(line.find("--dtype"), std::string::npos) << line;
  EXPECT_FALSE(std::filesystem::exists(small.file("out")));
  EXPECT_EQ(exported(small.file("fp32"), "out", {"--dtype=fp32"})["dtype"], "float32");
}

}  // namespace
}  // namespace upcycle
