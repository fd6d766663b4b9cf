#include "tests/cli/small_run.h"

#include <fmt/core.h>

#include <sstream>

namespace upcycle {

using nlohmann::json;

SmallRun::SmallRun() {
  std::string text;
  for (int i = 0; text.size() < 6000; ++i)
    text += fmt::format("The {} sat on the {} for {} hours.\n", i % 3 ? "cat" : "dog", i % 5 ? "mat" : "roof", i % 7);
  folder.write("train.txt", text);
  folder.write("valid.txt", text.substr(1000, 300));
  for (const char* set : {"train", "valid"}) {
    const Outcome o =
        run_upcycle({"tokenize", "--tokenizer=bytes", "--output=" + file(set), file(set + std::string(".txt"))});
    EXPECT_EQ(o.exit_code, 0) << o.err;
  }
  config = {{"dtype", "fp32"},
            {"model",
             {{"hidden_size", 32},
              {"intermediate_size", 64},
              {"num_hidden_layers", 2},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"vocab_size", 258},
              {"max_position_embeddings", 128}}},
            {"data", {{"train", file("train")}, {"valid", file("valid")}}},
            {"train",
             {{"steps", 6},
              {"seq_length", 32},
              {"micro_batch_size", 2},
              {"global_batch_size", 4},
              {"lr", 0.01},
              {"min_lr", 0.001}}}};
}

std::string SmallRun::write_config(const std::string& name, const json& changes) const {
  json c = config;
  c["checkpoint"]["dir"] = file(name);
  if (!changes.is_null()) c.merge_patch(changes);
  return folder.write(name + ".json", c.dump());
}

std::string SmallRun::train(const std::string& name, const json& changes, int ranks) const {
  const std::string config_file = write_config(name, changes);
  const Outcome o = ranks == 1 ? run_upcycle({"train", config_file}) : run_ranks(ranks, {"train", config_file});
  EXPECT_EQ(o.exit_code, 0) << o.err;
  return file(name);
}

std::string SmallRun::write_ids(const std::string& name, const std::vector<std::int32_t>& ids) const {
  return folder.write(name, json{{"ids", ids}}.dump());
}

json json_of(const std::vector<std::string>& arguments) {
  const Outcome o = run_upcycle(arguments);
  EXPECT_EQ(o.exit_code, 0) << o.err;
  const json j = json::parse(o.out, nullptr, false);
  EXPECT_TRUE(j.is_object()) << o.out;
  return j;
}

std::vector<json> step_lines(const std::string& run) {
  std::ifstream in(run + "/metrics.jsonl");
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);) {
    const json j = json::parse(line, nullptr, false);
    EXPECT_TRUE(j.is_object()) << line;
    if (j.is_object() && j.contains("loss")) lines.push_back(j);
  }
  return lines;
}

Outcome run_ranks(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> words{UPCYCLE_ROOT "/launch/run_local.sh", "-n", std::to_string(ranks)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_program(words, {{"UPCYCLE_BINARY", UPCYCLE_BINARY}, {"OMP_NUM_THREADS", "1"}});
}

std::map<std::string, std::string> checkpoint_hashes(const std::string& run) {
  std::string latest;
  std::getline(std::ifstream(run + "/latest"), latest);
  const json manifest = json::parse(std::ifstream(run + "/" + latest + "/manifest.json"), nullptr, false);
  std::map<std::string, std::string> hashes;
  EXPECT_TRUE(manifest.is_object() && manifest.contains("files")) << run << "/" << latest;
  if (hashes.empty() && manifest.is_object())
    for (const json& f : manifest["files"]) hashes[f["name"]] = f["hash"];
  return hashes;
}

}  // namespace upcycle
