#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/config/describe.h"
#include "core/error.h"
#include "core/half.h"
#include "data/safetensors_writer.h"
#include "parallel/checkpoint/import.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/models/export.h"
#include "parallel/models/huggingface.h"
#include "parallel/models/original_config.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"
#include "tests/golden_models.h"
#include "tests/real_models.h"

namespace upcycle::test {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

std::vector<float> whole(TensorSource& source, const ParamRow& row) {
  std::vector<float> values(static_cast<std::size_t>(row.global_size()));
  source.read(row.name, {0, 0, row.rows, row.columns}, values.data());
  return values;
}

// With the default that 0 means written out, as in config.json.
std::string resolved(ModelConfig m) {
  m.head_dim = m.head_size();
  m.num_key_value_heads = m.kv_heads();
  return to_json(m);
}

void expect_same_model(TensorSource& a, TensorSource& b) {
  EXPECT_EQ(resolved(a.model()), resolved(b.model()));
  for (const ParamRow& row : make_global_table(a.model()).rows) {
    ASSERT_TRUE(a.has(row.name) && b.has(row.name)) << row.name;
    EXPECT_TRUE(same_bits(whole(a, row), whole(b, row))) << row.name;
  }
}

// Every stored tensor of the original is in the export, bit for bit, under its own name.
void expect_same_files(const std::string& original, const std::string& exported, bool tied) {
  const auto a = SafetensorsSet::open(original), b = SafetensorsSet::open(exported);
  std::size_t compared = 0;
  for (const std::string& stored : a.names()) {
    if (stored.ends_with("rotary_emb.inv_freq") || a.info(stored).bytes() == 0) continue;
    const std::string name = tied && stored == "lm_head.weight" ? "model.embed_tokens.weight" : stored;
    ASSERT_TRUE(b.contains(name)) << name;
    EXPECT_EQ(a.info(stored).shape, b.info(name).shape);
    std::vector<float> x(a.info(stored).bytes() / size_of(a.info(stored).type)), y(x.size());
    a.read_rows(stored, 0, a.info(stored).rows, x.data());
    b.read_rows(name, 0, b.info(name).rows, y.data());
    EXPECT_TRUE(same_bits(x, y)) << name;
    ++compared;
  }
  EXPECT_EQ(b.names().size(), compared);
}

// Import in 3 shards, export sharded too, and back: the same tensors, and the same config.json.
void expect_round_trip(const std::string& dir) {
  const TemporaryFolder folder;
  const auto original = open_huggingface(dir);
  import_model(dir, folder.file("dense"), 3);
  const auto checkpoint = open_checkpoint(folder.file("dense"));
  EXPECT_EQ(original->model(), checkpoint->model());
  expect_same_model(*original, *checkpoint);
  const json before = json::parse(read_text(dir + "/config.json", 1 << 20));
  ExportOptions options;
  options.max_shard_bytes = 50000;
  export_huggingface(*checkpoint, read_origin(travelling_files(checkpoint->directory())), folder.file("hf"), options);
  EXPECT_TRUE(fs::exists(folder.file("hf/model.safetensors.index.json")));
  EXPECT_FALSE(fs::exists(folder.file("hf.tmp")));
  const auto exported = open_model(folder.file("hf"));
  expect_same_model(*original, *exported);
  expect_same_files(dir, folder.file("hf"), original->model().tie_word_embeddings);
  EXPECT_EQ(json::parse(folder.read("hf/config.json")), before);
  EXPECT_TRUE(fs::exists(folder.file("hf/generation_config.json")));
}

class Golden : public testing::TestWithParam<std::string> {};
TEST_P(Golden, ImportThenExportKeepsEveryBit) { expect_round_trip(golden_folder(GetParam())); }
INSTANTIATE_TEST_SUITE_P(HuggingFace, Golden, testing::ValuesIn(golden_models()),
                         [](const auto& p) { return p.param; });

// Without the config.json that it came with: by the family that export finds, with its values but for those that say
// nothing of the function: types, which follow the tensors, padding, and of Qwen what would matter if it had windows.
class Families : public testing::TestWithParam<std::string> {};
TEST_P(Families, SayTheModelInTheirKeys) {
  const TemporaryFolder folder;
  const auto original = open_huggingface(golden_folder(GetParam()));
  export_huggingface(*original, {}, folder.file("hf"), {});
  const json before = json::parse(read_text(golden_folder(GetParam()) + "/config.json", 1 << 20)),
             after = json::parse(folder.read("hf/config.json"));
  for (const auto& [key, value] : before.items()) {
    if (key == "dtype" || key == "pad_token_id" || key == "max_window_layers" || key == "pretraining_tp") continue;
    ASSERT_TRUE(after.contains(key)) << key;
    EXPECT_EQ(after[key], value) << key;
  }
}
INSTANTIATE_TEST_SUITE_P(HuggingFace, Families,
                         testing::Values("llama_gqa_tied", "llama_rope3_untied", "llama_biases", "qwen2", "qwen3",
                                         "olmo2", "olmo2_biases"),
                         [](const auto& p) { return p.param; });

TEST(RealModel, ImportThenExportKeepsEveryBit) {
  const std::string models = real_models();
  if (models.empty()) GTEST_SKIP();
  for (const char* name : {"/stories260K/hf", "/TinyStories-656K"}) expect_round_trip(models + name);
}

TEST(RealModel, TokenizerTravels) {
  const std::string models = real_models();
  if (models.empty()) GTEST_SKIP();
  const TemporaryFolder folder;
  const std::string dir = models + "/TinyStories-656K";
  import_model(dir, folder.file("dense"), 2);
  const auto c = open_checkpoint(folder.file("dense"));
  EXPECT_EQ(c->info().tokenizer, "tokenizer.json");
  export_huggingface(*c, read_origin(travelling_files(c->directory())), folder.file("hf"), {});
  for (const char* file :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
    EXPECT_EQ(folder.read(std::string("hf/") + file), read_text(dir + "/" + file, 1 << 20)) << file;
}

TEST(TravellingFiles, ATokenizerComesWithWhatLiesBesideIt) {
  const TemporaryFolder folder;
  for (const char* file : {"base/config.json", "base/generation_config.json", "base/tokenizer.model",
                           "base/special_tokens_map.json", "own/config.json", "own/generation_config.json",
                           "own/tokenizer.json", "own/tokenizer_config.json", "own/other.model", "own/notes.txt"}) {
    fs::create_directories(fs::path(folder.file(file)).parent_path());
    folder.write(file, "{}");
  }
  const std::vector<std::string> base = travelling_files(folder.file("base"));
  const std::string of_model[] = {folder.file("base/config.json"), folder.file("base/generation_config.json")};
  EXPECT_EQ(with_tokenizer(base, folder.file("own/tokenizer.json")),
            (std::vector<std::string>{of_model[0], of_model[1], folder.file("own/tokenizer_config.json"),
                                      folder.file("own/tokenizer.json")}));
  EXPECT_EQ(with_tokenizer(base, folder.file("own/other.model")),
            (std::vector<std::string>{of_model[0], of_model[1], folder.file("own/tokenizer.json"),
                                      folder.file("own/tokenizer_config.json"), folder.file("own/other.model")}));
  // The base's own file, named again, takes nothing away.
  EXPECT_EQ(with_tokenizer(base, folder.file("base/tokenizer.model")).size(), base.size());
}

TEST(Import, CutsEveryMatrixOverTheShards) {
  const TemporaryFolder folder;
  import_model(golden_folder("mixtral_k2"), folder.file("run"), 4);
  const auto c = open_checkpoint(folder.file("run"));
  EXPECT_EQ(c->files().size(), 5u);
  EXPECT_EQ(c->info().step, 0);
  EXPECT_EQ(c->moments(), 0);
  std::int64_t smallest = c->files()[0].bytes, largest = smallest;
  for (const auto& f : c->files()) {
    if (f.name == imported_config_name) continue;
    smallest = std::min(smallest, f.bytes);
    largest = std::max(largest, f.bytes);
  }
  EXPECT_LT(largest, smallest * 3 / 2);
}

TEST(Import, RefusesATakenFolderAndBadShards) {
  const TemporaryFolder folder;
  expect_input_error([&] { import_model(golden_folder("mixtral_k1"), folder.file("run"), 0); }, {"shards", "found 0"});
  EXPECT_FALSE(fs::exists(folder.file("run")));
  import_model(golden_folder("mixtral_k1"), folder.file("run"), 1);
  expect_input_error([&] { import_model(golden_folder("mixtral_k1"), folder.file("run"), 1); },
                     {"run", "empty folder"});
  folder.write("file", "");
  expect_input_error([&] { import_model(golden_folder("mixtral_k1"), folder.file("file"), 1); }, {"file", "a folder"});
  EXPECT_NO_THROW(open_checkpoint(folder.file("run")));
}

void expect_rounded_once(StoredType type, const char* name, float (*rounded)(float)) {
  const TemporaryFolder folder;
  const auto source = open_huggingface(golden_folder("llama_rope3_untied"));
  ExportOptions options;
  options.type = type;
  export_huggingface(*source, {}, folder.file("hf"), options);
  const auto exported = open_huggingface(folder.file("hf"));
  EXPECT_EQ(SafetensorsSet::open(folder.file("hf")).info("lm_head.weight").type, type);
  for (const ParamRow& row : make_global_table(source->model()).rows) {
    std::vector<float> values = whole(*source, row);
    for (float& x : values) x = rounded(x);
    EXPECT_TRUE(same_bits(values, whole(*exported, row))) << row.name;
  }
  const json config = json::parse(folder.read("hf/config.json"));
  EXPECT_TRUE(config.value("torch_dtype", config.value("dtype", "")) == name);
}

TEST(Export, Bf16RoundsOnce) {
  expect_rounded_once(StoredType::BF16, "bfloat16", [](float x) { return to_float(to_bf16(x)); });
}

TEST(Export, Fp16RoundsOnce) {
  expect_rounded_once(StoredType::F16, "float16", [](float x) { return half_to_float(float_to_half(x)); });
}

TEST(Export, RefusesTakenFoldersAndLeavesThemAlone) {
  const TemporaryFolder folder;
  const std::string dir = golden_folder("llama_gqa_tied");
  const auto source = open_huggingface(dir);
  folder.write("file", "mine");
  expect_input_error([&] { export_huggingface(*source, {}, folder.file("file"), {}); }, {"file", "a folder"});
  fs::create_directory(folder.file("full"));
  folder.write("full/mine", "mine");
  expect_input_error([&] { export_huggingface(*source, {}, folder.file("full"), {}); }, {"full", "not empty"});
  fs::create_directory(folder.file("hf.tmp"));
  folder.write("hf.tmp/mine", "mine");
  expect_input_error([&] { export_huggingface(*source, {}, folder.file("hf"), {}); }, {"hf.tmp", "remove it"});
  EXPECT_EQ(folder.read("hf.tmp/mine"), "mine");
  EXPECT_EQ(folder.read("full/mine"), "mine");
  fs::create_directory(folder.file("empty"));
  export_huggingface(*source, {}, folder.file("empty/"), {});
  EXPECT_NO_THROW(open_huggingface(folder.file("empty")));
}

// A source with any model, for what our config.json can not express.
struct OddSource : TensorSource {
  std::string label = "odd";
  ModelConfig config = small_model(4);
  bool fails = false;
  const std::string& name() const override { return label; }
  const ModelConfig& model() const override { return config; }
  bool has(const std::string&) const override { return true; }
  void read(const std::string& tensor, const Rectangle& part, float* out) override {
    if (fails && tensor == "model.norm.weight") input_error("odd: no more");
    std::fill(out, out + part.size(), 0.5f);
  }
};

TEST(Export, RefusesByFieldWhatMixtralCanNotExpress) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::function<void(ModelConfig&)>& change, const char* field) {
    OddSource source;
    change(source.config);
    ExportOptions options;
    options.model_type = "mixtral";
    expect_input_error([&] { export_huggingface(source, {}, folder.file("hf"), options); }, {"odd", field});
    EXPECT_TRUE(folder.names().empty());
  };
  refused([](ModelConfig& m) { m.shared_expert = true; }, "shared_expert");
  refused([](ModelConfig& m) { m.moe_every_n_layers = 2; }, "moe_every_n_layers");
  refused([](ModelConfig& m) { m.router_softmax = "softmax_then_topk"; }, "router_softmax");
}

TEST(Export, AFailureHalfWayLeavesNothing) {
  const TemporaryFolder folder;
  OddSource source;
  source.fails = true;
  expect_input_error([&] { export_huggingface(source, {}, folder.file("hf"), {}); }, {"no more"});
  EXPECT_TRUE(folder.names().empty());
}

// A model's folder that a test changes: tensors by name with shape and type, and the config.
class Changed {
 public:
  explicit Changed(const std::string& from)
      : config(json::parse(read_text(golden_folder(from) + "/config.json", 1 << 20))) {
    const auto set = SafetensorsSet::open(golden_folder(from));
    for (const std::string& name : set.names()) {
      Stored s{set.info(name).shape, StoredType::F32, {}};
      s.values.resize(set.info(name).bytes() / sizeof(float));
      set.read_rows(name, 0, set.info(name).rows, s.values.data());
      tensors[name] = std::move(s);
    }
  }
  std::unique_ptr<TensorSource> open() {
    folder.write("config.json", config.dump());
    for (const std::string& name : folder.names())
      if (name.starts_with("model")) fs::remove(folder.file(name));
    SafetensorsWriter writer(folder.path.string());
    for (const auto& [name, t] : tensors) writer.declare(name, t.type, t.shape);
    for (const auto& [name, t] : tensors) {
      if (t.type == StoredType::F32 || t.type == StoredType::BF16) {
        writer.write(name, t.values.data(), t.values.size());
      } else {
        const std::vector<char> zeros(t.values.size() * size_of(t.type));
        writer.write_raw(name, zeros.data(), zeros.size());
      }
    }
    writer.finish();
    return open_model(folder.path.string());
  }
  void refused(std::initializer_list<const char*> parts) {
    expect_input_error([&] { open(); }, parts);
  }

  struct Stored {
    std::vector<std::int64_t> shape;
    StoredType type;
    std::vector<float> values;
  };
  TemporaryFolder folder;
  json config;
  std::map<std::string, Stored> tensors;
};

const std::string embedding = "model.embed_tokens.weight", head = "lm_head.weight";

TEST(OpenHuggingFace, TiedEmbeddingsUnderEitherName) {
  Changed m("llama_gqa_tied");
  m.tensors.erase(head);
  ASSERT_EQ(m.tensors.count(embedding), 1u);
  const std::vector<float> wanted = m.tensors[embedding].values;
  const auto read = [&] {
    const auto source = m.open();
    EXPECT_FALSE(source->has(head));
    std::vector<float> out(wanted.size());
    source->read(embedding, {0, 0, 61, 48}, out.data());
    return out;
  };
  EXPECT_TRUE(same_bits(read(), wanted));
  m.tensors[head] = m.tensors[embedding];
  EXPECT_TRUE(same_bits(read(), wanted));  // both, equal
  m.tensors.erase(embedding);
  EXPECT_TRUE(same_bits(read(), wanted));
  m.tensors[embedding] = m.tensors[head];
  m.tensors[head].values[48 * 60 + 47] += 1;
  m.refused({"lm_head.weight", "row 60", "model.embed_tokens.weight", "tie_word_embeddings"});
  m.tensors.erase(embedding);
  m.tensors.erase(head);
  m.refused({"model.embed_tokens.weight", "found none", "lm_head.weight"});
}

TEST(OpenHuggingFace, PickledWeightsAreRefusedWithARecipe) {
  Changed m("llama_gqa_tied");
  m.open();
  fs::rename(m.folder.file("model.safetensors"), m.folder.file("pytorch_model.bin"));
  expect_input_error([&] { open_model(m.folder.path.string()); },
                     {"pytorch_model.bin", "python3 -c", "save_pretrained"});
}

TEST(OpenHuggingFace, StackedTensorsAreRefusedByTheirOwnNamesAndShapes) {
  Changed m("phi3_short");
  const auto all = m.tensors;
  for (const char* name : {"model.layers.1.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"}) {
    m.tensors.erase(name);
    m.refused({name, "found none"});
    m.tensors = all;
    --m.tensors[name].shape[0];
    m.tensors[name].values.resize(m.tensors[name].values.size() - 32);
    m.refused({name, "found shape", "expected"});
    m.tensors = all;
  }
  m.tensors["model.layers.0.self_attn.qkv_proj.weight"].values[(32 + 16 + 3) * 32 + 5] = NAN;  // row 3 of v
  const auto source = m.open();
  std::vector<float> v(16 * 32);
  const std::string name = canonical_name(ParamRole::Value, 0);
  expect_input_error([&] { source->read(name, {0, 0, 16, 32}, v.data()); }, {"qkv_proj.weight[51, 5]", "nan"});
}

TEST(OpenHuggingFace, UntiedNeedsBoth) {
  Changed m("llama_rope3_untied");
  m.tensors.erase(head);
  m.refused({"lm_head.weight", "found none", "tie_word_embeddings"});
  Changed other("llama_rope3_untied");
  other.tensors.erase(embedding);
  other.refused({"model.embed_tokens.weight", "found none"});
}

TEST(OpenHuggingFace, EveryTensorIsNeeded) {
  Changed m("mixtral_k1");
  const auto all = m.tensors;
  for (const auto& [name, tensor] : all) {
    m.tensors.erase(name);
    m.refused({name.c_str(), "found none"});
    m.tensors = all;
  }
}

TEST(OpenHuggingFace, ShapesAreExact) {
  Changed m("mixtral_k1");
  const auto all = m.tensors;
  for (const auto& [name, tensor] : all) {
    std::vector<std::int64_t>& shape = m.tensors[name].shape;
    if (shape.size() == 2)
      std::swap(shape[0], shape[1]);
    else
      shape = {1, shape[0]};
    if (shape != tensor.shape) m.refused({name.c_str(), "shape", "expected"});
    m.tensors = all;
  }
}

TEST(OpenHuggingFace, UnknownTensorsAreRefusedButForBuffers) {
  Changed m("llama_gqa_tied");
  m.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{4}, StoredType::F32, {1, 2, 3, 4}};
  EXPECT_NO_THROW(m.open());
  m.tensors["model.layers.0.self_attn.q_proj.bias"] = {{4}, StoredType::F32, {1, 2, 3, 4}};
  m.refused({"model.layers.0.self_attn.q_proj.bias", "none of that name"});
}

TEST(OpenHuggingFace, TooManyLayersInTheConfig) {
  Changed m("llama_gqa_tied");
  m.config["num_hidden_layers"] = 1000000;
  m.refused({"num_hidden_layers"});
  m.config["num_hidden_layers"] = 3;
  m.refused({"model.layers.2.", "found none"});
  m.config["num_hidden_layers"] = 1;
  m.refused({"model.layers.1.", "none of that name"});
}

// Hugging Face's own cache is made of links; the user named the folder, so they are followed. Names are not.
TEST(OpenHuggingFace, LinksAreFollowed) {
  Changed m("llama_gqa_tied");
  m.open();
  const TemporaryFolder snapshot;
  for (const std::string& name : {std::string("config.json"), std::string("model.safetensors")})
    fs::create_symlink(m.folder.file(name), snapshot.file(name));
  EXPECT_NO_THROW(open_model(snapshot.path.string()));
}

// What would be copied into a checkpoint, and from there into an export, for others to see.
TEST(OpenHuggingFace, LinksToFilesOfOthersDoNotTravel) {
  Changed m("llama_gqa_tied");
  m.open();
  const TemporaryFolder other;
  const std::string secret = other.write("secret.txt", "not for everyone's eyes"), model = m.folder.path.string();
  m.folder.write("vocab.json", "{}");
  fs::create_symlink("vocab.json", m.folder.file("merges.txt"));
  EXPECT_EQ(travelling_files(model).size(), 3u);
  for (const char* name : {"tokenizer.json", "generation_config.json", "x.model", "special_tokens_map.json"}) {
    fs::create_symlink(secret, m.folder.file(name));
    expect_input_error([&] { (void)travelling_files(model); }, {name, "secret.txt", "outside of the folder"});
    fs::remove(m.folder.file(name));
  }
}

TEST(OpenHuggingFace, APipeForAConfigIsRefused) {
  Changed m("llama_gqa_tied");
  m.open();
  fs::remove(m.folder.file("config.json"));
  ASSERT_EQ(::mkfifo(m.folder.file("config.json").c_str(), 0600), 0);
  expect_input_error([&] { open_model(m.folder.path.string()); }, {"config.json", "a pipe"});
}

// A tensor of no elements may be of any shape; it must not stand for a model of that size.
TEST(OpenHuggingFace, ExpertsOfNoElementsDoNotCount) {
  Changed m("granitemoe");
  m.config["num_local_experts"] = 100000;
  m.tensors["model.none"] = {{100000, 0, 8}, StoredType::F32, {}};
  m.refused({"num_local_experts", "100000"});
}

TEST(OpenHuggingFace, OtherTypesOfNumbers) {
  Changed m("llama_gqa_tied");
  for (auto& [name, t] : m.tensors) t.type = StoredType::BF16;
  const auto source = m.open();
  std::vector<float> out(48);
  source->read("model.norm.weight", {0, 0, 1, 48}, out.data());
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(out[i], to_float(to_bf16(m.tensors["model.norm.weight"].values[i])));
  m.tensors["model.norm.weight"].type = StoredType::F16;
  EXPECT_NO_THROW(m.open());
  m.tensors["model.norm.weight"].type = StoredType::I32;
  m.refused({"model.norm.weight", "I32"});
}

}  // namespace
}  // namespace upcycle::test
