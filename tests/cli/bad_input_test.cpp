#include <algorithm>
#include <functional>

#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// What a user can get wrong, by command: one line that names the place, exit code 2, and no file more than before.
namespace upcycle {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct BadInput : ::testing::Test {
  SmallRun small;
  const std::string golden = UPCYCLE_ROOT "/tests/golden";

  std::string file(const std::string& name) const { return small.file(name); }

  void refused(const Words& words, const Words& named, const std::map<std::string, std::string>& environment = {}) {
    const auto before = files_below(small.folder.path.string());
    const std::string line = one_line_error(run_upcycle(words, environment));
    EXPECT_EQ(line.find("failed at"), std::string::npos) << line;
    for (const std::string& part : named) EXPECT_NE(line.find(part), std::string::npos) << part << " in: " << line;
    EXPECT_EQ(files_below(small.folder.path.string()), before) << line;
  }

  // On two ranks mpirun adds lines of its own; one line is ours.
  void refused_by_two(const Words& words, const Words& named) {
    const auto before = files_below(small.folder.path.string());
    const Outcome o = run_ranks(2, words);
    EXPECT_EQ(o.exit_code, 2) << o.err;
    std::size_t ours = 0;
    for (std::size_t at = o.err.find("upcycle: "); at != std::string::npos; at = o.err.find("upcycle: ", at + 1))
      ++ours;
    EXPECT_EQ(ours, 1u) << o.err;
    for (const std::string& part : named) EXPECT_NE(o.err.find(part), std::string::npos) << part << " in: " << o.err;
    EXPECT_EQ(files_below(small.folder.path.string()), before) << o.err;
  }

  // A copy of a golden Hugging Face directory, its config.json changed.
  std::string hugging_face(const std::string& name, const json& changes = {},
                           const std::string& model = "llama_gqa_tied") {
    fs::create_directory(file(name));
    for (const char* part : {"config.json", "model.safetensors"})
      fs::copy(golden + "/" + model + "/" + part, file(name) + "/" + part);
    json config = json::parse(text_of(file(name) + "/config.json"));
    if (!changes.is_null()) config.merge_patch(changes);
    small.folder.write(name + "/config.json", config.dump());
    return file(name);
  }
};

TEST_F(BadInput, HuggingFaceConfig) {
  const std::string ids = small.write_ids("ids.json", {1, 2, 3});
  struct Case {
    json changes;
    const char* model;
    Words named;
  };
  const std::vector<Case> cases = {
      {{{"hidden_size", "32"}}, "llama_gqa_tied", {"hidden_size: found '32'", "expected"}},
      {{{"hidden_size", nullptr}}, "llama_gqa_tied", {"missing: hidden_size"}},
      {{{"hidden_size", -32}}, "llama_gqa_tied", {"hidden_size: found -32"}},
      {{{"num_attention_heads", 5}, {"num_key_value_heads", 5}, {"head_dim", nullptr}},
       "llama_gqa_tied",
       {"a multiple of num_attention_heads = 5"}},
      {{{"num_key_value_heads", 4}}, "llama_gqa_tied", {"num_key_value_heads: found 4", "a divisor"}},
      {{{"head_dim", 7}}, "llama_gqa_tied", {"head_dim: found 7", "even"}},
      {{{"intermediate_size", 21}}, "llama_gqa_tied", {"gate_proj.weight: found shape", "expected (21, "}},
      {{{"num_hidden_layers", 50}}, "llama_gqa_tied", {"num_hidden_layers", "found 50"}},
      {{{"num_hidden_layers", 1}}, "llama_gqa_tied", {"model.layers.1."}},
      {{{"num_hidden_layers", 1000000000000}}, "llama_gqa_tied", {"num_hidden_layers: found 1000000000000"}},
      {{{"model_type", "gpt2"}}, "llama_gqa_tied", {"model_type: found 'gpt2'", "'llama'", "'phi3'"}},
      {{{"hidden_act", "gelu"}}, "llama_gqa_tied", {"hidden_act: found 'gelu'"}},
      {{{"num_experts_per_tok", 6}}, "mixtral_k2", {"num_experts_per_tok: found 6", "1 to num_local_experts = 5"}},
      {{{"num_local_experts", 6}}, "mixtral_k2", {"gate.weight: found shape (5, 32), expected (6, 32)"}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    Words named = cases[i].named;
    named.push_back("model" + std::to_string(i));
    refused({"score", hugging_face("model" + std::to_string(i), cases[i].changes, cases[i].model), "--ids", ids},
            named);
  }
  const std::string good = text_of(golden + "/llama_gqa_tied/config.json");
  const std::string broken = hugging_face("broken");
  for (const auto& [text, named] :
       std::vector<std::pair<std::string, std::string>>{{"", "line 1, column 1"},
                                                        {good.substr(0, good.size() / 2), "not JSON"},
                                                        {"[1]", "expected an object"},
                                                        {"{\"hidden_size\": NaN}", "not JSON"},
                                                        {std::string(1 << 20, ' ') + good, "at most 1048576 bytes"}}) {
    small.folder.write("broken/config.json", text);
    refused({"score", broken, "--ids", ids}, {"broken/config.json", named});
  }
}

TEST_F(BadInput, HuggingFaceTensors) {
  const std::string ids = small.write_ids("ids.json", {1, 2, 3});
  const std::string model = hugging_face("model"), tensors = model + "/model.safetensors", good = text_of(tensors);
  for (const auto& [bytes, named] : std::vector<std::pair<std::string, std::string>>{
           {"", "found 0 bytes"},
           {good.substr(0, 4), "found 4 bytes"},
           {good.substr(0, good.size() - 8), "truncated"},
           {good + std::string(8, '\0'), "damaged end"},
           {std::string(8, '\xff') + good.substr(8), "header size"},
           {"version https://git-lfs.github.com/spec/v1", "header size"}}) {
    std::ofstream(tensors, std::ios::binary) << bytes;
    refused({"score", model, "--ids", ids}, {"model.safetensors", named});
    refused({"import", model, file("out")}, {"model.safetensors", named});
  }
  fs::remove(tensors);
  refused({"score", model, "--ids", ids}, {"model.safetensors.index.json"});
  fs::create_directory(tensors);
  refused({"score", model, "--ids", ids}, {"found a folder"});
  refused({"score", file("nothing"), "--ids", ids}, {"no such folder"});
  refused({"score", ids, "--ids", ids}, {"no such folder"});
  refused({"inspect", small.folder.path.string()}, {"config.json"});
}

TEST_F(BadInput, TokenIds) {
  const std::string model = golden + "/llama_gqa_tied", V = "token id from 0 to";
  for (const auto& [text, named] : std::vector<std::pair<std::string, std::string>>{
           {R"({"ids":[1,100000]})", "ids[1]: found 100000"},
           {R"({"ids":[-1,2]})", "ids[0]: found -1"},
           {R"({"ids":[1,2.5]})", "ids[1]: found 2.5"},
           {R"({"ids":[1,18446744073709551617]})", "ids[1]"},
           {R"({"ids":["a",2]})", "ids[0]: found \"a\""},
           {R"({"ids":[1]})", "at least 2"},
           {R"({"ids":3})", "no list"},
           {R"({"ids":[1,2)", "no JSON"},
           {R"({"ids":[)" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "]}", "no JSON"},
           {"", "no JSON"},
           {json{{"ids", std::vector<int>(100000, 1)}}.dump(), "max_position_embeddings"}}) {
    small.folder.write("ids.json", text);
    refused({"score", model, "--ids", file("ids.json")}, {"ids.json", named});
  }
  refused({"score", model, "--ids", file("none.json")}, {"none.json", "No such file"});
  refused({"score", model}, {"--ids is required"});
  refused({"score", model, "--ids", small.write_ids("ids.json", {1, 2}), "--dtype=fp16"},
          {"command line: dtype: found 'fp16'"});
}

TEST_F(BadInput, Checkpoints) {
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}}), step = run + "/step_00000001";
  const std::string ids = small.write_ids("ids.json", {1, 2, 3}), config = file("run.json");
  // `resumes`: whether training finds its way nonetheless.
  const auto with = [&](const std::string& path, const std::string& bytes, const Words& named, bool resumes = false) {
    const std::string good = text_of(path);
    std::ofstream(path, std::ios::binary) << bytes;
    Words all = named;
    all.push_back(fs::path(path).filename().string());
    for (const Words& words : std::vector<Words>{{"score", run, "--ids", ids}, {"export", run, file("out")}})
      refused(words, all);
    if (resumes)
      EXPECT_EQ(run_upcycle({"train", config}).exit_code, 0);
    else
      refused({"train", config}, all);
    std::ofstream(path, std::ios::binary) << good;
  };
  const std::string manifest = text_of(step + "/manifest.json"), model = text_of(step + "/model.rank00000.h5");
  with(step + "/manifest.json", "", {"not JSON"});
  with(step + "/manifest.json", manifest.substr(0, manifest.size() / 2), {"not JSON"});
  with(step + "/model.rank00000.h5", "", {"found 0 bytes"});
  with(step + "/model.rank00000.h5", model.substr(0, model.size() - 1), {"truncated"});
  std::string flipped = model;
  flipped[flipped.size() / 2] ^= 1;
  with(step + "/model.rank00000.h5", flipped, {"found hash", "damaged"});
  with(run + "/latest", "step_00000009\n", {"found step_00000009"});
  with(run + "/latest", "../elsewhere\n", {"found '../elsewhere'"}, true);
  fs::rename(step + "/optimizer.rank00000.h5", file("kept"));
  refused({"train", config}, {"optimizer.rank00000.h5", "no such file"});
  fs::rename(file("kept"), step + "/optimizer.rank00000.h5");
  // Another run in the folder of this one.
  refused({"train", config, "--seed=2"}, {"random seed 1", "random seed 2", "another checkpoint.dir"});
  refused({"train", config, "--model.hidden_size=64"}, {"model.hidden_size: found 64, expected 32"});
  refused({"train", config, "--checkpoint.resume=false"}, {"checkpoint.resume is false"});
  one_line_error(run_upcycle({"import", golden + "/llama_gqa_tied", run}));
}

TEST_F(BadInput, Outputs) {
  const std::string model = golden + "/llama_gqa_tied", a_file = small.folder.write("a_file", "x");
  for (const char* command : {"import", "export"}) {
    refused({command, model, a_file}, {"a_file", "found a file"});
    refused({command, model, a_file + "/below"}, {"a_file/below", "cannot make the folder", "a file bears that name"});
    refused({command, model, "/proc/none/out"}, {"/proc/none/out", "cannot make the folder"});
    refused({command, model, small.folder.path.string()}, {"expected", "choose another name"});
  }
  refused({"import", model, file("out"), "--shards=0"}, {"--shards: found 0"});
  refused({"import", model, file("out"), "--shards=-1"}, {"--shards: found -1"});
  refused({"export", model, file("out"), "--max-shard-bytes=-1"}, {"--max-shard-bytes: found -1"});
  refused({"export", model, file("out"), "--dtype=fp8"}, {"--dtype: found 'fp8', expected fp32, bf16 or fp16"});
  refused({"import", file("none"), file("out")}, {"no such folder"});
}

TEST_F(BadInput, TokenSetsAndTokenizers) {
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}});
  const std::string config = small.write_config("fresh"), bin = text_of(file("valid.bin")),
                    idx = text_of(file("valid.idx"));
  const auto set = [&](const std::string& bin_bytes, const std::string& idx_bytes, const Words& named) {
    small.folder.write("bad.bin", bin_bytes);
    small.folder.write("bad.idx", idx_bytes);
    refused({"eval", run, "--data", file("bad")}, named);
    refused({"train", config, "--data.train=" + file("bad")}, named);
    refused({"train", config, "--data.valid=" + file("bad")}, named);
  };
  set(bin.substr(0, bin.size() - 2), idx, {"bad.bin", "truncated"});
  set("", idx, {"bad.bin"});
  set(bin, "", {"bad.idx", "truncated"});
  set(bin, idx.substr(0, idx.size() - 3), {"bad.idx", "truncated"});
  set(bin, std::string(idx.size(), 'x'), {"bad.idx", "MMIDIDX"});
  std::string foreign = bin;
  foreign[foreign.size() - 7] = 2;  // id 512 and more in a vocabulary of 258
  set(foreign, idx, {"bad.bin", "vocabulary of 258", "tokenizer"});
  for (const char* option : {"--data.train=", "--data.valid="})
    refused({"train", config, option + file("none")}, {"none.idx", "No such file"});

  const std::string empty = small.folder.write("empty.model", ""), noise = small.folder.write("noise.model", "noise");
  refused({"eval", run, "--data", file("valid"), "--tokenizer", empty}, {"empty.model: is empty"});
  refused({"eval", run, "--data", file("valid"), "--tokenizer", noise}, {"noise.model", "sentencepiece"});
  refused({"generate", run, "x"}, {"--tokenizer"});
  refused({"generate", run, "x", "--tokenizer=bytes", "--tokens=-1"}, {"--tokens: found -1"});
  refused({"generate", run, std::string(500, 'x'), "--tokenizer=bytes"}, {"max_position_embeddings = 128"});
  refused({"generate", golden + "/llama_gqa_tied", "x", "--tokenizer=bytes"}, {"vocabulary of 258"});
  for (const std::string& tokenizer : {empty, noise, file("none.model"), small.folder.path.string()})
    refused({"train", config, "--data.tokenizer=" + tokenizer}, {tokenizer});
  refused({"train", config, "--data.tokenizer=bytes", "--model.vocab_size=257"}, {"vocabulary of 258", "257"});
  refused({"eval", run, "--data", file("valid"), "--seq-length=129"}, {"--seq-length: found 129", "= 128"});
}

TEST_F(BadInput, TrainConfig) {
  const std::string config = small.write_config("fresh"), run = small.train("dense", {{"train", {{"steps", 1}}}});
  const std::vector<std::pair<std::string, std::string>> overrides = {
      {"--train.stepz=3", "did you mean 'train.steps'?"},
      {"--train.steps=-1", "train.steps: found -1"},
      {"--train.lr=nan", "train.lr: found the text 'nan'"},
      {"--train.seq_length=129", "train.seq_length: found 129"},
      {"--train.global_batch_size=3", "train.global_batch_size: found 3, expected a multiple"},
      {"--train.min_lr=1", "train.min_lr: found 1"},
      {"--train.freeze=[\"nothing*\"]", "train.freeze"},
      {"--train.tokens=5", "train.tokens: found 5"},
      {"--dtype=fp16", "dtype: found 'fp16'"},
      {"--device=cuda", "device: found cuda"},
      {"--model.num_attention_heads=3", "num_attention_heads = 3"},
      {"--model.head_dim=7", "model.head_dim: found 7"},
      {"--model.num_key_value_heads=3", "model.num_key_value_heads: found 3"},
      {"--model.hidden_size=-1", "model.hidden_size: found -1"},
      {"--model.num_hidden_layers=100000000", "model.num_hidden_layers: found 100000000"},
      {"--model.hidden_size=33554432", "parameters"},
      {"--model.num_local_experts=1", "model.num_experts_per_tok: found 2, expected 1 to num_local_experts = 1"},
      {"--parallel.tp=2", "parallel.tp=2 does not divide world=1"},
      {"--init.load=/no/such", "/no/such: found no such folder"},
      {"--checkpoint.dir=" + file("fresh.json"), "fresh.json: cannot make the folder"},
      {"--checkpoint.dir=/proc/none/run", "/proc/none/run: cannot make the folder"}};
  for (const auto& [override, named] : overrides) refused({"train", config, override}, {named});
  refused({"train", file("none.json")}, {"none.json: found no such file"});
  refused({"train", small.folder.path.string()}, {"found a directory"});
  refused({"train"}, {"model.hidden_size"});
  for (const auto& [text, named] :
       std::vector<std::pair<std::string, std::string>>{{"", "line 1, column 1"},
                                                        {"{\"train\": {\"lr\": NaN}}", "not JSON"},
                                                        {"{\"seed\": 1, \"seed\": 2}", "'seed' is given twice"},
                                                        {"{\"model\": {\"hiden_size\": 3}}", "'model.hidden_size'"},
                                                        {std::string(1 << 20, ' ') + "{}", "at most 1048576 bytes"}}) {
    small.folder.write("bad.json", text);
    refused({"train", file("bad.json")}, {"bad.json", named});
    refused({"bench", "step", file("bad.json")}, {"bad.json", named});
  }
  // More memory than any machine has.
  refused({"bench", "step", config, "--model.hidden_size=65536", "--model.num_hidden_layers=1000"}, {"memory: found"});

  const json no_model = json{{"model", {{"num_local_experts", 4}}}, {"init", {{"upcycle", run}}}};
  json changes = no_model;
  for (const auto& [key, value] : small.config["model"].items()) changes["model"][key] = nullptr;
  const std::string moe = small.write_config("moe", changes), virtual_group = "--upcycle.mode=virtual_group";
  refused({"train", moe, "--model.num_experts_per_tok=5"}, {"num_experts_per_tok: found 5"});
  refused({"train", moe, "--model.num_local_experts=0"}, {"num_local_experts"});
  refused({"train", moe, "--model.hidden_size=64"}, {"model.hidden_size: found 64, expected 32"});
  refused({"train", moe, "--model.moe_every_n_layers=3"}, {"model.moe_every_n_layers: found 3"});
  refused({"train", moe, virtual_group, "--model.moe_intermediate_size=24"}, {"24"});
  refused({"train", moe, virtual_group, "--model.moe_intermediate_size=16", "--model.num_local_experts=8",
           "--model.num_experts_per_tok=3"},
          {"num_experts_per_tok = 3 is not a multiple of G = 4"});
}

TEST_F(BadInput, TwoRanksSayItOnce) {
  const std::string config = small.write_config("fresh"), run = small.train("run", {{"train", {{"steps", 1}}}});
  refused_by_two({"train", config, "--parallel.tp=3"}, {"parallel.tp=3 does not divide world=2", "tp=2"});
  refused_by_two({"train", config, "--parallel.tp=2", "--model.num_key_value_heads=1"}, {"num_key_value_heads = 1"});
  refused_by_two({"train", config, "--train.global_batch_size=2"},
                 {"train.global_batch_size: found 2", "expected a multiple"});
  refused_by_two({"train", config, "--data.train=" + file("none")}, {"none.idx"});
  refused_by_two({"bench", "step", config, "--parallel.tp=3"}, {"parallel.tp=3"});
  const std::string model = run + "/step_00000001/model.rank00000.h5", good = text_of(model);
  std::ofstream(model, std::ios::binary) << good.substr(0, good.size() - 1);
  refused_by_two({"train", file("run.json")}, {"model.rank00000.h5", "truncated"});
  refused_by_two({"train", config, "--init.load=" + run}, {"model.rank00000.h5", "truncated"});
}

}  // namespace
}  // namespace upcycle
