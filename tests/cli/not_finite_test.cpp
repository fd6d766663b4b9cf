#include <cmath>
#include <filesystem>
#include <limits>

#include "data/hash.h"
#include "data/hdf5.h"
#include "data/safetensors.h"
#include "tests/cli/refused.h"
#include "tests/cli/small_run.h"

// A model that holds NaN or an infinity is refused by whatever reads it, with file, tensor and element, and exit
// code 2.
namespace upcycle {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kTensor = "model.layers.1.self_attn.k_proj.weight";  // (16, 32)

// Element (1, 3) of the dataset becomes `value`; the manifest is told of the changed file.
void spoil_hdf5(const std::string& step, const std::string& name, const std::string& dataset, float value) {
  const std::string path = step + "/" + name;
  std::map<std::string, std::vector<float>> values;
  Hdf5File old = Hdf5File::open_read(path);
  const std::vector<Hdf5Dataset> all = old.list();
  const Hdf5Attributes attributes = old.attributes();
  for (const Hdf5Dataset& d : all) {
    std::vector<float>& v = values[d.name];
    v.resize(static_cast<std::size_t>(d.rows * d.columns));
    old.read(d.name, 0, d.rows, 0, d.columns, v.data());
    if (d.name == dataset) v[static_cast<std::size_t>(d.columns + 3)] = value;
  }
  ASSERT_TRUE(values.contains(dataset));
  old.close();
  Hdf5File spoiled = Hdf5File::create(path);
  for (const Hdf5Dataset& d : all) spoiled.write(d.name, values[d.name].data(), d.rows, d.columns, d.attributes);
  spoiled.write_attributes(attributes);
  spoiled.close();
  json manifest = json::parse(text_of(step + "/manifest.json"));
  manifest.erase("manifest_hash");
  manifest["format_version"] = 1;
  for (json& f : manifest["files"])
    if (f["name"] == name) f["bytes"] = fs::file_size(path), f["hash"] = hash_file(path);
  write_bytes(step + "/manifest.json", manifest.dump());
}

struct NotFinite : ::testing::Test {
  SmallRun small;
  const std::string run = small.train("run", {{"train", {{"steps", 1}}}}), step = run + "/step_00000001";
  const std::string ids = small.write_ids("ids.json", {1, 2, 3, 4});

  void refused(const Words& arguments, const Words& named) {
    Words words{UPCYCLE_BINARY};
    words.insert(words.end(), arguments.begin(), arguments.end());
    expect_one_line(run_program(words), named);
  }
};

TEST_F(NotFinite, WeightsOfACheckpoint) {
  spoil_hdf5(step, "model.rank00000.h5", std::string(kTensor) + "/0", std::numeric_limits<float>::quiet_NaN());
  const Words named{"run/step_00000001/model.rank00000.h5: tensor " + std::string(kTensor) + "[1, 3]: found nan"};
  const std::string fresh = small.write_config("fresh"), out = small.file("out");
  refused({"score", run, "--ids", ids, "--json"}, named);
  refused({"eval", run, "--data", small.file("valid"), "--seq-length=32", "--json"}, named);
  refused({"generate", run, "x", "--tokenizer=bytes"}, named);
  refused({"export", run, out}, named);
  refused({"reshard", run, out, "--world=2", "--parallel.tp=2"}, named);
  EXPECT_FALSE(fs::exists(out) || fs::exists(out + ".tmp"));
  refused({"train", small.file("run.json"), "--train.steps=2"}, named);
  refused({"train", fresh, "--init.load=" + run}, named);
  refused({"train", fresh, "--init.upcycle=" + run, "--model.num_local_experts=2"}, named);
}

TEST_F(NotFinite, MomentsOfACheckpoint) {
  spoil_hdf5(step, "optimizer.rank00000.h5", "exp_avg/" + std::string(kTensor) + "/0",
             -std::numeric_limits<float>::infinity());
  refused({"train", small.file("run.json"), "--train.steps=2"},
          {"optimizer.rank00000.h5: tensor exp_avg/" + std::string(kTensor) + "[1, 3]: found -inf"});
}

TEST_F(NotFinite, EveryTypeOfSafetensors) {
  for (const std::string type : {"fp32", "bf16", "fp16"}) {
    const std::string dir = small.file(type), file = dir + "/model.safetensors";
    ASSERT_EQ(run_upcycle({"export", run, dir, "--dtype=" + std::string(type == "fp32" ? "fp32" : "bf16")}).exit_code,
              0);
    std::string bytes = text_of(file);
    const StoredTensor t = SafetensorsFile::open(file).info(kTensor);
    const std::size_t size = type == "fp32" ? 4 : 2, at = t.begin + size * (32 + 3);
    // Infinity: the highest bits alone, which are the last of little-endian numbers.
    bytes.replace(at, size, size, '\0');
    bytes[at + size - 1] = type == "fp16" ? '\x7c' : '\x7f';
    if (type != "fp16") bytes[at + size - 2] = '\x80';
    if (type == "fp16")
      for (std::size_t found = 0; (found = bytes.find("\"BF16\"", found)) != bytes.npos && found < t.begin; ++found)
        bytes.replace(found, 6, "\"F16\" ");
    write_bytes(file, bytes);
    const Words named{type + "/model.safetensors: tensor " + kTensor + "[1, 3]: found inf"};
    refused({"import", dir, small.file("imported")}, named);
    refused({"score", dir, "--ids", ids, "--json"}, named);
    EXPECT_FALSE(fs::exists(small.file("imported")) || fs::exists(small.file("imported.tmp")));
  }
}

}  // namespace
}  // namespace upcycle
